"""Chat formats by name: a name means here what it means in LLaMA-Factory.

The strings are those that LLaMA-Factory registers under these names (hiyouga/LlamaFactory at
007303c0, src/llamafactory/data/template.py), so that a recipe renders the same there. Without a
name the tokenizer's own template is used. Where a name and what the model's makers published
differ: ``deepseek`` has no space after "Assistant:", ``phi`` no end of text after the last answer,
``gemma`` takes a system prompt, ``qwen3`` keeps earlier thoughts and has two line breaks before the
tools also where there is no system prompt, and none trims white space.

Taught in notebooks/02_tokens_and_chat_templates.ipynb.
"""

from __future__ import annotations

import copy
import json
import re
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftlab.errors import ModelError, RecipeError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Around = tuple[str, str]  # what stands before and after a content


@dataclass(frozen=True)
class Template:
    """One format. ``header`` asks the assistant to speak; ``{eos}`` is the tokenizer's EOS token.

    ``stop``: the token that ends an answer and becomes the EOS token. ``merge``: the system prompt
    stands inside the first question. ``thinking``: None for formats without tools and thoughts.
    """

    user: Around
    header: str
    answer: Around = ("", "{eos}")
    system: Around = ("", "")
    stop: str | None = None
    default_system: str = ""
    bos: bool = False
    merge: bool = False
    thinking: bool | None = None


# fmt: off
_CHATML: dict[str, Any] = {
    "user": ("<|im_start|>user\n", "<|im_end|>\n"), "header": "<|im_start|>assistant\n",
    "answer": ("", "<|im_end|>\n"), "system": ("<|im_start|>system\n", "<|im_end|>\n"),
    "stop": "<|im_end|>",
}
TEMPLATES: dict[str, Template] = {
    "alpaca": Template(
        ("### Instruction:\n", "\n\n"), "### Response:\n", ("", "{eos}\n\n"),
        default_system="Below is an instruction that describes a task. "
        "Write a response that appropriately completes the request.\n\n",
    ),
    "chatml": Template(**_CHATML),
    "deepseek": Template(("User: ", "\n\n"), "Assistant:", system=("", "\n\n"), bos=True),
    "deepseek3": Template(("<｜User｜>", ""), "<｜Assistant｜>", bos=True),
    "default": Template(
        ("Human: ", "{eos}"), "\nAssistant:", ("", "{eos}\n"), ("System: ", "{eos}\n")
    ),
    "empty": Template(("", ""), "", ("", "")),
    "gemma": Template(
        ("<start_of_turn>user\n", "<end_of_turn>\n"), "<start_of_turn>model\n",
        ("", "<end_of_turn>\n"), ("", "\n\n"), "<end_of_turn>", bos=True, merge=True,
    ),
    "llama3": Template(
        ("<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>"),
        "<|start_header_id|>assistant<|end_header_id|>\n\n", ("", "<|eot_id|>"),
        ("<|start_header_id|>system<|end_header_id|>\n\n", "<|eot_id|>"), "<|eot_id|>", bos=True,
    ),
    "mistral": Template(
        ("[INST] ", "[/INST]"), "", (" ", "{eos}"), ("", "\n\n"), bos=True, merge=True
    ),
    "phi": Template(
        ("<|user|>\n", "<|end|>\n"), "<|assistant|>\n", ("", "<|end|>\n"),
        ("<|system|>\n", "<|end|>\n"), "<|end|>",
    ),
    "phi4": Template(
        ("<|im_start|>user<|im_sep|>", "<|im_end|>"), "<|im_start|>assistant<|im_sep|>",
        ("", "<|im_end|>"), ("<|im_start|>system<|im_sep|>", "<|im_end|>"), "<|im_end|>",
    ),
    "qwen": Template(
        **_CHATML, thinking=False,
        default_system="You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
    ),
    "qwen3": Template(**_CHATML, thinking=True),
    "qwen3_nothink": Template(**_CHATML, thinking=False),
}
# fmt: on
NAMES = tuple(TEMPLATES)
_FOLDER = Path(__file__).parent / "templates"
_CONTROL = re.compile(r"<[|｜][^|｜]+[|｜]>|<(?:start|end)_of_turn>")


def named(name: str) -> Template:
    """The template of that name; RecipeError, with the nearest name, for one that is not known."""
    if name in TEMPLATES:
        return TEMPLATES[name]
    near = get_close_matches(name, NAMES, n=1)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    raise RecipeError(
        f"template={name!r}: this version of ftlab knows {', '.join(NAMES)}. {hint}"
        "Leave template out to use the tokenizer's own."
    )


@lru_cache(maxsize=8)
def apply(
    tokenizer: PreTrainedTokenizerBase, name: str, default_system: str | None = None
) -> PreTrainedTokenizerBase:
    """A copy of the tokenizer that renders chats as ``name`` says; its EOS is the format's stop.

    ``default_system`` replaces the system prompt that the format adds to rows without one. Raises
    RecipeError for an unknown name, ModelError when the tokenizer lacks a token of the format.
    """
    template = named(name)
    markup = "".join((*template.user, template.header, *template.answer))
    known = tokenizer.get_added_vocab()
    if missing := sorted({token for token in _CONTROL.findall(markup) if token not in known}):
        owner = tokenizer.name_or_path or "this model"
        owner = Path(owner).name if Path(owner).is_dir() else owner
        raise ModelError(
            f"template={name!r} needs the tokens {', '.join(missing)}, and the tokenizer of "
            f"{owner} has no such tokens. Choose the template of this model's family, or alpaca or "
            "default, which need none."
        )
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.eos_token = template.stop or tokenizer.eos_token
    tokenizer.chat_template = _source(template, tokenizer, default_system)
    return tokenizer


def _source(
    template: Template, tokenizer: PreTrainedTokenizerBase, default_system: str | None
) -> str:
    """The jinja text: the format's strings as variables, and the file that uses them."""
    system = template.default_system if default_system is None else default_system
    values: dict[str, object] = {"default_system": system}
    if template.thinking is None:
        values |= {"bos": (tokenizer.bos_token or "") if template.bos else ""}
        values |= {key: getattr(template, key) for key in ("system", "user", "header", "answer")}
    values |= {"merge": template.merge, "thinking": bool(template.thinking)}
    sets = "".join(
        f"{{%- set {key} = {json.dumps(value, ensure_ascii=False)} %}}"
        for key, value in values.items()
    )
    body = (_FOLDER / ("turns" if template.thinking is None else "qwen")).with_suffix(".jinja")
    return sets.replace("{eos}", tokenizer.eos_token or "") + body.read_text(encoding="utf-8")
