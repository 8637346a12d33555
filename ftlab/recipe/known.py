"""Keys of LLaMA-Factory and what becomes of them here: its own, ours, of no effect, lacking."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from ftlab.errors import RecipeError
from ftlab.recipe.knobs import Knob

# Keys that LLaMA-Factory does not know: written only where they change something.
EXTENSIONS = (
    "truncation_strategy", "init_lora_weights", "num_virtual_tokens", "bottleneck_size",
    "export_format", "precompute_ref_log_probs", "reward_funcs", "kl_coef", "cliprange",
    "num_generations",
)  # fmt: skip

# LLaMA-Factory's keys that are read and change nothing here, with the sentence that says so.
NO_EFFECT = {
    "overwrite_cache": "overwrite_cache: no effect here, ftlab keeps no tokenized cache.",
    "preprocessing_num_workers": "preprocessing_num_workers: no effect, one process encodes.",
    "infer_backend": "infer_backend: no effect here, ftlab generates with transformers.",
    "include_num_input_tokens_seen": "include_num_input_tokens_seen: tokens are always counted.",
    "trust_remote_code": "trust_remote_code: ftlab never runs code from a model folder.",
    "use_fast_tokenizer": "use_fast_tokenizer: no effect here, tokenizers are always fast ones.",
    "flash_attn": "flash_attn: no effect here, PyTorch's own attention (sdpa) is used.",
}

# Known keys of features that this version lacks; they pass only when they switch the feature off.
LACKING = {
    "BCO": "pref_bco_weight",
    "LLaMA Pro": "use_llama_pro",
    "other SFT losses": "use_dft_loss use_asft_loss use_eaft_loss asft_alpha eaft_alpha",
    "Unsloth": "use_unsloth use_unsloth_gc",
    "Liger kernels": "enable_liger_kernel",
    "LongLoRA": "shift_attn",
    "changing the vocabulary": "resize_vocab add_tokens add_special_tokens",
    "batch prediction": "do_predict predict_with_generate",
    "streaming data": "streaming tokenized_path",
    "quantized export": "export_quantization_bit export_quantization_dataset "
    "export_quantization_nsamples export_quantization_maxlen",
    "token accuracy": "compute_accuracy",
    "early stopping": "early_stopping_steps load_best_model_at_end metric_for_best_model",
    "resuming by recipe (use ftlab.resume)": "resume_from_checkpoint",
    "uploading": "push_to_hub hub_model_id export_hub_model_id",
    "several evaluation sets": "eval_on_each_dataset",
    "tools as text": "tool_format preserve_thinking",
    "layer-norm upcasting": "upcast_layernorm",
}
_LACKS = {key: feature for feature, keys in LACKING.items() for key in keys.split()}
_OFF = (None, False, 0, "", "none", "no")


def check_keys(values: Mapping[str, Any], knobs: Mapping[str, Knob]) -> None:
    """Raise RecipeError for a key that is unknown, or known but of a feature ftlab lacks."""
    for key, value in values.items():
        if key in knobs or key in NO_EFFECT:
            continue
        if key in _LACKS:
            if value in _OFF:
                continue
            raise RecipeError(
                f"{key}={value!r}: this version of ftlab has no {_LACKS[key]}. Remove the key."
            )
        near = get_close_matches(str(key), [*knobs, *NO_EFFECT, *_LACKS], n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise RecipeError(f"{key!r} is no key of a recipe.{hint}")
