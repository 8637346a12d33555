"""A tokenizer's chat template as the Modelfile of Ollama, found by rendering marked conversations.

Ollama's templates are Go's (docs/template.md of ollama/ollama): it walks ``.Messages`` and gives
the system prompt as ``.System``. Tools and thoughts are not carried over.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SYSTEM, _FIRST, _ANSWER, _SECOND = "@system@", "@question 1@", "@answer@", "@question 2@"


def modelfile(tokenizer: PreTrainedTokenizerBase, weights: str = ".") -> str:
    """The Modelfile for ``weights`` (a folder or a GGUF file beside it).

    Without a chat template the prompt is passed as it is.
    """
    lines = [f"FROM {weights}", "", f'TEMPLATE """{go_template(tokenizer)}"""', ""]
    if tokenizer.eos_token:
        lines += [f"PARAMETER stop {json.dumps(tokenizer.eos_token, ensure_ascii=False)}", ""]
    return "\n".join(lines)


def go_template(tokenizer: PreTrainedTokenizerBase) -> str:
    """The chat template in Go's syntax; a BOS token that Ollama adds itself is left out."""
    if not tokenizer.chat_template:
        return "{{ .Prompt }}"
    opening, asked, turn, between = _pieces(tokenizer, None)
    try:
        with_system, asked, turn, between = _pieces(tokenizer, _SYSTEM)
    except (TemplateError, ValueError):  # it has no place for a system prompt
        start = opening
    else:
        before, after = with_system.split(_SYSTEM)
        start = f"{{{{ if .System }}}}{before}{{{{ .System }}}}{after}"
        start += f"{{{{ else }}}}{opening}{{{{ end }}}}"
    if turn != asked:  # it opens the answer to come otherwise than an earlier one
        last = "eq (len (slice $.Messages $i)) 1"
        turn = f"{{{{ if {last} }}}}{turn}{{{{ else }}}}{asked}{{{{ end }}}}"
    return (
        f"{start}{{{{ range $i, $_ := .Messages }}}}"
        f'{{{{ if eq .Role "user" }}}}{{{{ .Content }}}}{turn}'
        f'{{{{ else if eq .Role "assistant" }}}}{{{{ .Content }}}}{between}'
        "{{ end }}{{ end }}"
    )


def _pieces(tokenizer: PreTrainedTokenizerBase, system: str | None) -> tuple[str, str, str, str]:
    """What stands before the first question, after it, after the last one, and after an answer."""
    messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    messages += [
        {"role": "user", "content": _FIRST},
        {"role": "assistant", "content": _ANSWER},
        {"role": "user", "content": _SECOND},
    ]
    text = str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    opening, rest = text.split(_FIRST)
    asked, rest = rest.split(_ANSWER)
    between, turn = rest.split(_SECOND)
    bos = tokenizer.bos_token
    if bos and tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]:
        opening = opening.removeprefix(bos)
    return opening, asked, turn, between
