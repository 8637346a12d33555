"""Keys of LLaMA-Factory and what becomes of them here: its own, ours, of no effect, lacking."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from ftlab.errors import RecipeError
from ftlab.recipe.knobs import Knob

# Keys that LLaMA-Factory does not know, or (train_sampling_strategy, which is transformers 5's) not
# with every transformers it runs on: written only where they change something.
EXTENSIONS = (
    "truncation_strategy", "init_lora_weights", "num_virtual_tokens", "bottleneck_size",
    "export_format", "precompute_ref_log_probs", "reward_funcs", "kl_coef", "cliprange",
    "num_generations", "train_sampling_strategy",
)  # fmt: skip

# Switches that are values of one key now: transformers 4's, and LLaMA-Factory's own.
RENAMED = {
    "group_by_length": ("train_sampling_strategy", "group_by_length"),
    "disable_shuffling": ("train_sampling_strategy", "sequential"),
    "disable_gradient_checkpointing": ("gradient_checkpointing", False),
}

# LLaMA-Factory's keys that are read and change nothing here, with the sentence that says so.
NO_EFFECT = {
    "overwrite_cache": "overwrite_cache: no effect here, ftlab keeps no tokenized cache.",
    "preprocessing_num_workers": "preprocessing_num_workers: no effect, one process encodes.",
    "infer_backend": "infer_backend: no effect here, ftlab generates with transformers.",
    "include_num_input_tokens_seen": "include_num_input_tokens_seen: tokens are always counted.",
    "trust_remote_code": "trust_remote_code: ftlab never runs code from a model folder.",
    "use_fast_tokenizer": "use_fast_tokenizer: no effect here, tokenizers are always fast ones.",
}

# Known keys of features that this version lacks; they pass only when they switch the feature off.
LACKING = {
    "BCO": "pref_bco_weight",
    "LLaMA Pro": "use_llama_pro",
    "other SFT losses": "use_dft_loss use_asft_loss use_eaft_loss asft_alpha eaft_alpha",
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


def renamed(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values with older switches under today's names; RecipeError where two of them are on."""
    kept = {key: value for key, value in values.items() if key not in RENAMED}
    for old, (key, value) in RENAMED.items():
        switch = values.get(old)
        if str(switch).lower() not in ("none", "false", "true"):
            raise RecipeError(f"{old}={switch!r}: expected true or false.")
        switch = str(switch).lower() == "true"
        if switch and kept.setdefault(key, value) != value:
            raise RecipeError(f"{old} and {key}={kept[key]!r} contradict each other. Set one.")
    return kept


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
