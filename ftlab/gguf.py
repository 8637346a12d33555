"""A model and its tokenizer as one GGUF file, the format of llama.cpp and Ollama.

The format: github.com/ggml-org/ggml, docs/gguf.md; names of tensors and keys come from the
``gguf`` package, blocks of 8 and 4 bits from its ``quants``. Taught in
notebooks/15_merging_and_export.ipynb.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from tokenizers import Tokenizer

from ftlab.errors import CheckpointError, ModelError

FILE = "model.gguf"
TYPES = {"gguf_f16": Type.F16, "gguf_q8_0": Type.Q8_0, "gguf_q4_0": Type.Q4_0}
ARCHITECTURES = {
    "qwen3": gguf.MODEL_ARCH.QWEN3, "qwen2": gguf.MODEL_ARCH.QWEN2, "llama": gguf.MODEL_ARCH.LLAMA,
}  # fmt: skip
BLOCK = 32  # weights that share one scale, in Q8_0 and Q4_0
# How llama.cpp splits a text into words, by the names it has for it (src/llama-vocab.cpp); the
# patterns are those of the tokenizers of GPT-2, Qwen2/Qwen3 and Llama 3.
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}COUNT| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPLITS = {"qwen2": _SPLIT.replace("COUNT", ""), "llama-bpe": _SPLIT.replace("COUNT", "{1,3}")}
SAMPLES = (
    "Ada Quill's 12 loaves, sold.",
    "谁住在港口旁边？她叫艾达。",
    "two  spaces",
    "a\n\n- b\n",
)
_MARKS = re.compile(r"(\{%-?\s*)(end)?generation(\s*-?%\})")


def check(config: Any) -> None:
    """ModelError for a model that cannot be written as GGUF."""
    kind = config.model_type
    if kind not in ARCHITECTURES:
        raise ModelError(
            f"{kind}: ftlab writes GGUF for {', '.join(ARCHITECTURES)} only. llama.cpp's own "
            "convert_hf_to_gguf.py reads the safetensors folder."
        )
    if getattr(config, "use_sliding_window", False):
        raise ModelError(f"{kind} with a sliding window: llama.cpp would read all of the text.")
    rope = config.rope_parameters["rope_type"]
    if rope not in ("default", "linear", "yarn", "llama3"):
        raise ModelError(f"rope_type={rope!r}: GGUF has no key for it. Export without it.")


def write(model: Any, tokenizer: Any, path: Path, format: str) -> list[str]:
    """Write the file; returns notes on what a reader would do otherwise."""
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[ARCHITECTURES[model.config.model_type]])
    notes = _add_tokenizer(writer, tokenizer, model.get_input_embeddings().num_embeddings)
    _add_config(writer, model.config)
    writer.add_file_type(getattr(gguf.LlamaFileType, _FILE_TYPES[format]))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for name, tensor in _tensors(model):
        kind = _type(name, tensor.shape, TYPES[format])
        shape = gguf.quant_shape_to_byte_shape(tuple(tensor.shape), kind)
        writer.add_tensor_info(name, shape, np.dtype(np.uint8), int(np.prod(shape)), kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, tensor in _tensors(model):
        writer.write_tensor_data(_packed(name, tensor, TYPES[format]))
    writer.close()
    return notes


def compare(path: Path, model: Any) -> float:
    """Read every tensor and key back: the largest error, in steps of the tensor's own grid.

    Raises CheckpointError where a 16- or 32-bit value is another one, or a quantized value lies
    farther than half a step off (in Q4_0, whose codes reach 8 steps one way and 7 the other, a
    whole step at the shorter end).
    """
    reader = gguf.GGUFReader(path)
    found, worst = {tensor.name: tensor for tensor in reader.tensors}, 0.0
    for name, tensor in _tensors(model):
        there = found.pop(name, None)
        if there is None:
            raise CheckpointError(f"{path}: {name} is missing when it is read again.")
        error = _error(tensor, there)
        if not error <= 1:
            raise CheckpointError(f"{path}: {name} is not what was written. Check the disk.")
        worst = max(worst, error)
    if found:
        raise CheckpointError(f"{path}: {min(found)} is no tensor of the model.")
    return worst


def _error(tensor: torch.Tensor, there: Any) -> float:
    """The largest error of a stored tensor as a share of what its type allows."""
    values = gguf.dequantize(there.data, there.tensor_type).reshape(tuple(tensor.shape))
    wanted = tensor.float().numpy()
    if there.tensor_type == Type.F16:
        wanted = wanted.astype(np.float16).astype(np.float32)
    if there.tensor_type in (Type.F16, Type.F32):
        return 0.0 if np.array_equal(values, wanted) else float("inf")
    blocks, values = wanted.reshape(-1, BLOCK), values.reshape(-1, BLOCK)
    extreme = np.take_along_axis(blocks, abs(blocks).argmax(1, keepdims=True), 1)
    step = abs(extreme) / (8 if there.tensor_type == Type.Q4_0 else 127)
    allowed = np.full_like(blocks, 0.5) * step
    if there.tensor_type == Type.Q4_0:
        allowed = np.where(blocks * -np.sign(extreme) > 7.5 * step, step, allowed)
    # The step is stored in 16 bits.
    allowed += abs(values) * 2.0**-11 + 127 * 2.0**-25
    return float((abs(values - blocks) / allowed).max())


_FILE_TYPES = {
    "gguf_f16": "MOSTLY_F16", "gguf_q8_0": "MOSTLY_Q8_0", "gguf_q4_0": "MOSTLY_Q4_0",
}  # fmt: skip


# Weights ----------------------------------------------------------------------------------------


def _tensors(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Every weight under its GGUF name; an output layer that shares the embeddings is left out."""
    config = model.config
    names = gguf.get_tensor_name_map(ARCHITECTURES[config.model_type], config.num_hidden_layers)
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    for name, tensor in model.state_dict().items():
        if tied and name == "lm_head.weight":
            continue
        theirs = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if theirs is None:
            raise ModelError(f"{name}: GGUF has no name for this weight.")
        if config.model_type == "llama" and ("q_proj" in name or "k_proj" in name):
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            tensor = interleaved(tensor, heads)
        yield theirs, tensor.detach().cpu()
    if config.rope_parameters["rope_type"] == "llama3":
        yield "rope_freqs.weight", _llama3_factors(config)


def interleaved(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """The rows of a query or key layer in the order of llama.cpp's ``llama``.

    Rotary positions turn pairs of rows in each head: transformers pairs row i with row i + half,
    llama.cpp's ``llama`` row 2i with row 2i + 1 (RoFormer's own order).
    """
    pairs = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return pairs.transpose(1, 2).reshape(weight.shape).contiguous()


def _llama3_factors(config: Any) -> torch.Tensor:
    """By what each frequency is divided (transformers, modeling_rope_utils.py), [head_dim / 2]."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    dim = _head_dim(config)
    plain = config.rope_parameters["rope_theta"] ** -(torch.arange(0, dim, 2).float() / dim)
    return plain / ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")[0]


def _type(name: str, shape: Any, wanted: Type) -> Type:
    """Vectors stay in 32 bits, rows that fill no blocks in 16; 4 bits are for the layers inside.

    llama.cpp's own quantizer, too, gives embeddings and output layer more bits than the rest.
    """
    if len(shape) == 1:
        return Type.F32
    if wanted != Type.F16 and shape[-1] % BLOCK:
        return Type.F16
    outer = name.startswith(("token_embd", "output."))
    return Type.Q8_0 if wanted == Type.Q4_0 and outer else wanted


def _packed(name: str, tensor: torch.Tensor, wanted: Type) -> np.ndarray[Any, Any]:
    kind = _type(name, tensor.shape, wanted)
    with np.errstate(over="ignore"):
        data = gguf.quantize(tensor.float().contiguous().numpy(), kind)
    if kind == Type.F16 and not np.isfinite(data).all():
        raise ModelError(f"{name}: a weight beyond 65504 does not fit 16 bits.")
    return data


# Metadata ---------------------------------------------------------------------------------------


def _head_dim(config: Any) -> int:
    given = getattr(config, "head_dim", None)
    return int(given or config.hidden_size // config.num_attention_heads)


def _add_config(writer: Any, config: Any) -> None:
    rope, dim = config.rope_parameters, _head_dim(config)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(dim)
    writer.add_value_length(dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(dim)
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
        writer.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "yarn":
        length = rope.get("original_max_position_embeddings", config.max_position_embeddings)
        writer.add_rope_scaling_orig_ctx_len(length)


def _add_tokenizer(writer: Any, tokenizer: Any, rows: int) -> list[str]:
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    if state["model"]["type"] != "BPE" or "ByteLevel" not in json.dumps(state["pre_tokenizer"]):
        raise ModelError("GGUF: ftlab writes byte-level BPE tokenizers only.")
    added, plain = tokenizer.added_tokens_decoder, gguf.TokenType.NORMAL
    tokens = {number: token for token, number in tokenizer.get_vocab().items()}
    kinds = {
        n: gguf.TokenType.CONTROL if token.special else gguf.TokenType.USER_DEFINED
        for n, token in added.items()
    }
    writer.add_vocab_size(rows)
    writer.add_tokenizer_model("gpt2")
    name, notes = _pre_tokenizer(tokenizer, state)
    writer.add_tokenizer_pre(name)
    writer.add_token_list([tokens.get(n, f"[PAD{n}]") for n in range(rows)])
    unused = gguf.TokenType.UNUSED
    writer.add_token_types([kinds.get(n, plain if n in tokens else unused) for n in range(rows)])
    merges = state["model"]["merges"]
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    for special in ("bos", "eos", "pad"):
        if (number := getattr(tokenizer, f"{special}_token_id")) is not None:
            getattr(writer, f"add_{special}_token_id")(number)
    starts = tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
    writer.add_add_bos_token(starts)
    if tokenizer.chat_template:
        writer.add_chat_template(_MARKS.sub(_as_if, tokenizer.chat_template))
    return notes


def _as_if(mark: re.Match[str]) -> str:
    """TRL's generation marks, which llama.cpp does not know, as a condition that always holds."""
    return f"{mark[1]}{'endif' if mark[2] else 'if true'}{mark[3]}"


def _pre_tokenizer(tokenizer: Any, state: dict[str, Any]) -> tuple[str, list[str]]:
    """llama.cpp's name for how a tokenizer splits words, or the stand-in "qwen2" with a note."""
    text = json.dumps(state["pre_tokenizer"])
    for name, pattern in SPLITS.items():
        if json.dumps({"Regex": pattern}) in text:
            return name, []
    if '"Split"' not in text and '"use_regex": true' in text:
        return "gpt-2", []
    other = split_by("qwen2", tokenizer)
    differ = [
        t for t in SAMPLES if other.encode(t).ids != tokenizer.backend_tokenizer.encode(t).ids
    ]
    note = "note: llama.cpp has no name for how this tokenizer splits words; the file says qwen2"
    if differ:
        note += f", which gives other tokens for {len(differ)} of {len(SAMPLES)} samples, such as "
        note += repr(differ[0])
    return "qwen2", [f"{note}."]


def split_by(name: str, tokenizer: Any) -> Tokenizer:
    """The tokenizer as llama.cpp computes it where a file names its pre-tokenizer ``name``."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    split = {"type": "Split", "pattern": {"Regex": SPLITS[name]}, "behavior": "Isolated"}
    plain = {"add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    state["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [split | {"invert": False}, {"type": "ByteLevel"} | plain],
    }
    return Tokenizer.from_str(json.dumps(state))
