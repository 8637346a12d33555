"""Conversation -> token ids, labels, and the colored token view.

One function decides what a model is trained on: ``encode``. Training, evaluation and the
picture all come from it. Taught in notebooks/07_sft.ipynb.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from transformers import PreTrainedTokenizerBase

from ftlab.errors import DataError, ModelError

IGNORED = -100  # the label that cross-entropy skips (torch.nn.functional.cross_entropy)

_COLORS = {  # why a token is (not) trained -> background; chosen to survive color blindness
    "trained": "#cfe8d5",
    "prompt": "#eceff3",
    "earlier answer": "#fde9c9",
    "template": "#e3e1f1",
}


@dataclass(repr=False)
class Encoded:
    """One example as the model sees it; all lists have the same length.

    ``input_ids``: token ids. ``labels``: the id where the token is trained, -100 where not.
    ``mask_reason``: "trained", "prompt" or "earlier answer". ``tokens``: the readable pieces.
    """

    input_ids: list[int]
    labels: list[int]
    mask_reason: list[str]
    tokens: list[str]

    def __repr__(self) -> str:
        return f"Encoded({len(self)} tokens, {self.trained} trained)"

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def trained(self) -> int:
        """Number of tokens that carry loss."""
        return sum(label != IGNORED for label in self.labels)

    def text_view(self) -> str:
        """The same picture as the HTML view, in plain text: trained tokens in [brackets]."""
        parts = [
            f"[{token}]" if label != IGNORED else token
            for token, label in zip(self.tokens, self.labels, strict=True)
        ]
        return "".join(parts)

    def _repr_html_(self) -> str:
        spans = []
        for token, token_id, reason in zip(
            self.tokens, self.input_ids, self.mask_reason, strict=True
        ):
            shown = escape(token).replace("\n", "↵<br>") or "·"
            spans.append(
                f'<span title="id {token_id}: {reason}" style="background:{_COLORS[reason]};'
                f'border-radius:3px;padding:1px 2px;margin:1px;color:#222">{shown}</span>'
            )
        present = dict.fromkeys(self.mask_reason)
        key = " ".join(
            f'<span style="background:{_COLORS[r]};padding:1px 6px;color:#222">{r}</span>'
            for r in present
        )
        return (
            f'<div style="font-family:monospace;line-height:1.9">{"".join(spans)}</div>'
            f"<div>{key} &nbsp; {self.trained} of {len(self)} tokens trained</div>"
        )


def encode(
    tokenizer: PreTrainedTokenizerBase,
    conversation: dict[str, Any] | Sequence[dict[str, Any]],
    *,
    train_on_prompt: bool = False,
    mask_history: bool = False,
    cutoff_len: int | None = None,
    with_tokens: bool = True,
) -> Encoded:
    """Turn one row (``{"messages": ...}`` or ``{"text": ...}``) or messages into ids and labels.

    Trained are the assistant's turns with the end-of-turn token; the prompt is not, unless
    ``train_on_prompt``. ``mask_history`` trains the last answer only. Text rows train every token
    and an end-of-text token. Raises DataError when the example is longer than ``cutoff_len``
    tokens or nothing in it would be trained, ModelError when the tokenizer has no chat template.

    >>> from ftlab import load
    >>> enc = encode(load("tiny")[1], [{"role": "user", "content": "Hi"},
    ...                                {"role": "assistant", "content": "Hello."}])
    >>> enc.input_ids[-2] == enc.labels[-2], enc.labels[0]
    (True, -100)
    """
    row: dict[str, Any] = (
        conversation if isinstance(conversation, dict) else {"messages": list(conversation)}
    )
    if "text" in row:
        ids, reasons = _encode_text(tokenizer, row["text"])
    else:
        ids, reasons = _encode_chat(tokenizer, row)
        if mask_history:
            reasons = _last_answer_only(reasons)
    train = {"trained", "prompt"} if train_on_prompt else {"trained"}
    labels = [i if reason in train else IGNORED for i, reason in zip(ids, reasons, strict=True)]
    if train_on_prompt:
        reasons = ["trained" if reason in train else reason for reason in reasons]
    _check(row, ids, labels, cutoff_len)
    return Encoded(ids, labels, reasons, pieces(tokenizer, ids) if with_tokens else [])


def prompt_ids(tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, Any]]) -> list[int]:
    """Token ids of ``messages`` followed by the header that asks the assistant to speak."""
    return _render(tokenizer, {"messages": list(messages)}, add_generation_prompt=True)[0]


def pieces(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    """The text of each token. A character that spans several tokens shows on the last of them."""
    texts, pending = [], []
    for token_id in ids:
        pending.append(token_id)
        text = tokenizer.decode(pending, skip_special_tokens=False)
        complete = not text.endswith("\ufffd")
        texts.append(text if complete else "")
        if complete:
            pending = []
    return texts


def _encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[list[int], list[str]]:
    ids = tokenizer(text, add_special_tokens=True)["input_ids"]
    # The base model ends its texts with <|endoftext|>, not with the end of a chat turn.
    ids = [*ids, text_end_id(tokenizer)]
    return ids, ["trained"] * len(ids)


def text_end_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id that ends a plain text: ``<|endoftext|>`` where the vocabulary has it, else EOS."""
    vocabulary_id = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    known = vocabulary_id is not None and vocabulary_id != tokenizer.unk_token_id
    return vocabulary_id if known else tokenizer.eos_token_id


def _encode_chat(
    tokenizer: PreTrainedTokenizerBase, row: dict[str, Any]
) -> tuple[list[int], list[str]]:
    ids, mask = _render(tokenizer, row)
    return ids, ["trained" if trained else "prompt" for trained in mask]


def _render(
    tokenizer: PreTrainedTokenizerBase, row: dict[str, Any], **options: Any
) -> tuple[list[int], list[int]]:
    """Ids and assistant mask of a conversation, through the tokenizer's own chat template."""
    if not tokenizer.chat_template:
        raise ModelError(
            f"{tokenizer.name_or_path}: the tokenizer has no chat template, so a conversation "
            "cannot be rendered. Use an instruction-tuned tokenizer, or set "
            "tokenizer.chat_template, or train on plain text (stage: pt)."
        )
    encoded = tokenizer.apply_chat_template(
        row["messages"],
        tools=row.get("tools") or None,
        return_dict=True,
        return_assistant_tokens_mask="add_generation_prompt" not in options,
        chat_template=_training_template(tokenizer),
        **options,
    )
    ids = list(encoded["input_ids"])
    return ids, list(encoded.get("assistant_masks", [0] * len(ids)))


def _training_template(tokenizer: PreTrainedTokenizerBase) -> str:
    """The template with {% generation %} markers: the tokenizer's own, or TRL's patched copy."""
    from trl.chat_template_utils import get_training_chat_template, has_generation_markers

    if has_generation_markers(tokenizer.chat_template):
        return tokenizer.chat_template
    try:
        return get_training_chat_template(tokenizer) or tokenizer.chat_template
    except ValueError as error:
        raise ModelError(
            f"{tokenizer.name_or_path}: its chat template does not mark what the assistant says "
            "({% generation %}), and TRL knows no marked copy of it. Set tokenizer.chat_template "
            "to a template with these markers."
        ) from error


def _last_answer_only(reasons: list[str]) -> list[str]:
    start = len(reasons)
    while start and reasons[start - 1] != "trained":
        start -= 1
    while start and reasons[start - 1] == "trained":
        start -= 1
    earlier = ["earlier answer" if r == "trained" else r for r in reasons[:start]]
    return earlier + reasons[start:]


def _check(row: dict[str, Any], ids: list[int], labels: list[int], cutoff_len: int | None) -> None:
    where = f"{row['source']}: " if "source" in row else ""
    if all(label == IGNORED for label in labels):
        raise DataError(f"{where}no token of this example would be trained: it has no answer.")
    if cutoff_len is not None and len(ids) > cutoff_len:
        raise DataError(
            f"{where}the example has {len(ids)} tokens, cutoff_len is {cutoff_len}. "
            "Cutting it would lose the end of the answer: raise cutoff_len or shorten the row."
        )


def question(text: str, system: str | None = None) -> list[dict[str, str]]:
    """One user turn, after the system prompt if there is one."""
    turn = {"role": "user", "content": text}
    return [{"role": "system", "content": system}, turn] if system else [turn]


def with_system(row: dict[str, Any], system: str | None) -> dict[str, Any]:
    """The row with ``system`` as its first message, unless it has one of its own."""
    if not system or "messages" not in row or row["messages"][0]["role"] == "system":
        return row
    return {**row, "messages": [{"role": "system", "content": system}, *row["messages"]]}
