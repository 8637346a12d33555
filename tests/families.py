"""Small byte-level tokenizers with the control tokens of a model family, built in memory."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import trl
from throwaway import small_tokenizer
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

PUBLISHED = Path(trl.__file__).parent / "chat_templates"
_TOKEN = re.compile(
    r"<[|｜][^|｜<>'\"{}]+[|｜]>|<(?:start|end)_of_turn>|</?tool_(?:call|response)>|</?think>"
)


def published(name: str) -> str:
    """A chat template as its makers published it, or TRL's copy of it with generation marks."""
    return (PUBLISHED / f"{name}.jinja").read_text(encoding="utf-8")


def tokenizer_for(
    template: str | None, *, bos: str = "<bos>", eos: str = "<eos>", adds_bos: bool = False,
    tokens: tuple[str, ...] = (), merges: list[tuple[str, str]] | None = None,
) -> Any:  # fmt: skip
    """A tokenizer with this chat template, all control tokens in it, a BOS and an EOS token."""
    tokenizer = small_tokenizer()
    if merges:
        state = json.loads(tokenizer.backend_tokenizer.to_str())
        state["model"]["merges"] = merges
        state["model"]["vocab"] |= {a + b: 1000 + n for n, (a, b) in enumerate(merges)}
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(state)))
    found = {*_TOKEN.findall(template or ""), *tokens, bos, eos}
    plain = {token for token in found if re.fullmatch(r"</?(think|tool_\w+)>", token)}
    tokenizer.add_tokens(sorted(plain))
    tokenizer.add_special_tokens({"additional_special_tokens": sorted(found - plain)})
    tokenizer.bos_token, tokenizer.eos_token, tokenizer.chat_template = bos, eos, template
    if adds_bos:
        number = tokenizer.convert_tokens_to_ids(bos)
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, number)]
        )
    return tokenizer


@lru_cache
def family(name: str) -> Any:
    """A tokenizer with every control token that the named templates of ftlab use."""
    from ftlab.templates import TEMPLATES

    parts = TEMPLATES[name]
    text = "".join((*parts.user, parts.header, *parts.answer, *parts.system))
    return tokenizer_for(
        None,
        tokens=tuple(_TOKEN.findall(text)) + ("<think>", "</think>", "<tool_call>", "</tool_call>"),
    )
