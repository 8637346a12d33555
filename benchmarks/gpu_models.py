"""Models with the shapes of real ones, random weights and a synthetic tokenizer; no network.

`python -m benchmarks.gpu_models NAME FOLDER DEVICE` writes one: config.json, safetensors in shards
of at most 4 GB, tokenizer. Random weights give valid speed and memory, and no quality.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SHARD = 4e9  # bytes
SPREAD = 0.02  # of the weights, as in the models' initializer_range

QWEN3: dict[str, Any] = {
    "model_type": "qwen3", "vocab_size": 151936, "num_key_value_heads": 8, "head_dim": 128,
    "rope_theta": 1e6, "rms_norm_eps": 1e-6, "max_position_embeddings": 40960,
}  # fmt: skip
# From the models' config.json (shared/reference/performance.md, section 3).
SHAPES: dict[str, dict[str, Any]] = {
    "Qwen3-0.6B": QWEN3 | {
        "hidden_size": 1024, "num_hidden_layers": 28, "num_attention_heads": 16,
        "intermediate_size": 3072, "tie_word_embeddings": True,
    },
    "Qwen3-1.7B": QWEN3 | {
        "hidden_size": 2048, "num_hidden_layers": 28, "num_attention_heads": 16,
        "intermediate_size": 6144, "tie_word_embeddings": True,
    },
    "Qwen3-8B": QWEN3 | {
        "hidden_size": 4096, "num_hidden_layers": 36, "num_attention_heads": 32,
        "intermediate_size": 12288, "tie_word_embeddings": False,
    },
    "Llama-3.1-8B": {
        "model_type": "llama", "vocab_size": 128256, "hidden_size": 4096,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
        "head_dim": 128, "intermediate_size": 14336, "tie_word_embeddings": False,
        "rope_theta": 5e5, "rms_norm_eps": 1e-5, "max_position_embeddings": 131072,
        "rope_scaling": {
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
        },
    },
    # seconds on a CPU: to check the program, not to measure
    "smoke": QWEN3 | {
        "vocab_size": 512, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 128,
        "tie_word_embeddings": True, "max_position_embeddings": 512,
    },
}  # fmt: skip

# The last ids of every vocabulary.
SPECIAL = ("<|pad|>", "<|user|>", "<|assistant|>", "<|end|>")
TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}<|assistant|> "
    "{% generation %}{{ message['content'] }} <|end|>{% endgeneration %} "
    "{% else %}<|user|> {{ message['content'] }} <|end|> {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|> {% endif %}"
)


@dataclass(frozen=True)
class Shape:
    """The sizes that FLOPs follow from, named as in performance.md, section 2."""

    hidden: int
    layers: int
    q: int  # heads * head_dim
    k: int  # key-value heads * head_dim
    ffn: int
    vocab: int

    @property
    def linear(self) -> int:
        """N_lin: weights of the linear layers, without embedding and head."""
        h, f = self.hidden, self.ffn
        return self.layers * (2 * h * self.q + 2 * h * self.k + 3 * h * f)

    @property
    def multiplied(self) -> int:
        """N: weights that a token is multiplied with; the head counts also where it is tied."""
        return self.linear + self.vocab * self.hidden

    def adapters(self, rank: int) -> int:
        """Weights of LoRA on all seven linear layers."""
        h, f = self.hidden, self.ffn
        return rank * self.layers * (2 * (h + self.q) + 2 * (h + self.k) + 3 * (h + f))


def shape(name: str) -> Shape:
    """The sizes of one of SHAPES."""
    c = SHAPES[name]
    return Shape(
        c["hidden_size"], c["num_hidden_layers"], c["num_attention_heads"] * c["head_dim"],
        c["num_key_value_heads"] * c["head_dim"], c["intermediate_size"], c["vocab_size"],
    )  # fmt: skip


def word(number: int) -> str:
    """The word whose token id is ``number``."""
    return f"t{number}"


def tokenizer(vocabulary: int) -> Any:
    """One word for each id: what is written "t5 t77" has the ids 5 and 77."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {word(n): n for n in range(vocabulary - len(SPECIAL))}
    words |= {text: vocabulary - len(SPECIAL) + n for n, text in enumerate(SPECIAL)}
    made = Tokenizer(models.WordLevel(words, unk_token=SPECIAL[0]))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    pad, *_, end = SPECIAL
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token=pad, eos_token=end, chat_template=TEMPLATE
    )


def tensors(name: str, device: str, dtype: str) -> Iterator[tuple[str, Any]]:
    """The weights by name, drawn one after the other from seed 0 on ``device``."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(config(name, dtype))
    chance = torch.Generator(device).manual_seed(0)
    for key, value in empty.state_dict().items():
        if key == "lm_head.weight" and SHAPES[name]["tie_word_embeddings"]:
            continue
        made = torch.ones(value.shape, device=device, dtype=getattr(torch, dtype))
        if value.ndim > 1:
            made.normal_(0, SPREAD, generator=chance)
        yield key, made.cpu()


def config(name: str, dtype: str) -> Any:
    """The configuration as transformers reads it."""
    from transformers import AutoConfig

    values = dict(SHAPES[name])
    end = values["vocab_size"] - 1
    found = AutoConfig.for_model(
        values.pop("model_type"), **values, dtype=dtype, bos_token_id=None, eos_token_id=end,
        pad_token_id=values["vocab_size"] - len(SPECIAL),
    )  # fmt: skip
    found.architectures = [{"qwen3": "Qwen3ForCausalLM", "llama": "LlamaForCausalLM"}[
        SHAPES[name]["model_type"]
    ]]  # fmt: skip
    return found


def write(name: str, folder: Path, device: str) -> None:
    """Write the model into ``folder``, which appears only when it is whole."""
    if folder.is_dir():
        return
    dtype = "float32" if device == "cpu" else "bfloat16"
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    config(name, dtype).save_pretrained(partial)
    tokenizer(SHAPES[name]["vocab_size"]).save_pretrained(partial)
    _write_shards(tensors(name, device, dtype), partial)
    partial.rename(folder)


def _write_shards(weights: Iterator[tuple[str, Any]], folder: Path) -> None:
    from safetensors.torch import save_file

    shard: dict[str, Any] = {}
    where: dict[str, str] = {}
    total = held = number = 0

    def flush() -> None:
        nonlocal shard, held, number
        number += 1
        file = f"model-{number:05d}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        where.update(dict.fromkeys(shard, file))
        shard, held = {}, 0

    for key, value in weights:
        size = value.numel() * value.element_size()
        if shard and held + size > SHARD:
            flush()
        shard[key] = value
        held, total = held + size, total + size
    flush()
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))


if __name__ == "__main__":
    write(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
