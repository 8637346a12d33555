"""Conversation -> token ids, labels, and why each token is trained or not.

One function decides what a model is trained on: ``encode``. Training, evaluation and the picture
all come from it. Taught in notebooks/04_loss_masking.ipynb and notebooks/07_sft.ipynb.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

from transformers import PreTrainedTokenizerBase

from ftlab.chat.fit import shortened, too_long
from ftlab.chat.rendering import Chat, Row, Span, controls, place, said, tools_of
from ftlab.errors import DataError, ModelError
from ftlab.tokens import IGNORED, Encoded, EncodedPair

Messages = Sequence[Row]

_REASONS = {"user": "user", "system": "system", "tool": "tool result", "tools": "tools"}


@dataclass(frozen=True)
class Masking:
    """What of an example is trained; the keys of the recipe with these names."""

    train_on_prompt: bool = False
    mask_history: bool = False
    enable_thinking: bool | None = None


def encode(
    tokenizer: PreTrainedTokenizerBase,
    conversation: Row | Messages,
    *,
    train_on_prompt: bool = False,
    mask_history: bool = False,
    enable_thinking: bool | None = None,
    cutoff_len: int | None = None,
    truncation_strategy: str = "error",
    with_tokens: bool = True,
) -> Any:
    """Turn one row (of any kind that ``ftlab.read`` gives) or a list of messages into ids, labels.

    Returns ``Encoded``, or ``EncodedPair`` for a row with ``chosen`` and ``rejected``. The ids are
    those of the tokenizer's own chat template. Trained are the assistant's turns with the
    end-of-turn token; with ``mask_history`` only the last one; not those with ``weight`` 0; with
    ``train_on_prompt`` everything else too. In rows with a ``prompt`` only the completion is
    trained, in ``text`` rows everything and an end-of-text token. ``enable_thinking`` goes to the
    template.

    Control tokens that stand in the data, such as ``<|im_end|>`` in a question, are encoded as
    ordinary text: nobody can end a turn by writing its mark. Longer than ``cutoff_len``: DataError,
    or with ``truncation_strategy="left"`` the earliest turns are left out, never half an answer.

    Raises DataError when nothing would be trained or the template refuses or leaves out a message,
    ModelError when there is no chat template or the mask cannot be exact with it.

    >>> from ftlab import load
    >>> enc = encode(load("tiny")[1], [{"role": "user", "content": "Hi"},
    ...                                {"role": "assistant", "content": "Hello."}])
    >>> enc.input_ids[-2] == enc.labels[-2], enc.labels[0]
    (True, -100)
    """
    row = conversation if isinstance(conversation, dict) else {"messages": list(conversation)}
    masking = Masking(train_on_prompt, mask_history, enable_thinking)
    whole = example(tokenizer, row, masking, with_tokens)
    if cutoff_len is None or len(whole) <= cutoff_len:
        return whole
    if truncation_strategy != "left":
        raise too_long(row, len(whole), cutoff_len)
    one = partial(example, tokenizer, masking=masking, with_tokens=with_tokens)
    return shortened(one, row, cutoff_len, "left")[0]


def example(
    tokenizer: PreTrainedTokenizerBase, row: Row, masking: Masking, with_tokens: bool = False
) -> Any:
    """One row at its full length, as ``Encoded`` or ``EncodedPair``."""
    if "text" in row:
        return _encode_text(tokenizer, row, with_tokens)
    if "messages" in row:
        return _encode_chat(tokenizer, row, row["messages"], 0, masking, with_tokens)
    sides = ("chosen", "rejected") if "chosen" in row else ("completion",)
    start = len(row["prompt"])
    found = [
        _encode_chat(tokenizer, row, [*row["prompt"], *row[side]], start, masking, with_tokens)
        for side in sides
    ]
    return EncodedPair(*found) if len(found) == 2 else found[0]


def prompt_ids(
    tokenizer: PreTrainedTokenizerBase,
    messages: Messages,
    *,
    tools: Sequence[Row] | None = None,
    enable_thinking: bool | None = None,
) -> list[int]:
    """Token ids of ``messages`` and the header that asks the assistant to speak; control tokens in
    the messages' text are encoded as ordinary text, as ``encode`` does."""
    chat = Chat(tokenizer, {"messages": messages, "tools": tools}, enable_thinking, asking=True)
    ids = _tokenize(tokenizer, chat.text, chat.harmless()[0])[0]
    return [*_missing_bos(tokenizer, ids), *ids]


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


def parity(
    tokenizer: PreTrainedTokenizerBase,
    row: Row,
    *,
    mask_history: bool = False,
    enable_thinking: bool | None = None,
) -> Encoded:
    """Check that training shows the model what it will see when it serves; returns the example.

    The ids are those of ``apply_chat_template``; the prompt that asks for the last answer is their
    beginning, and the first token after it is trained; the trained tokens read as the answers.
    (That each ends with a control token and there is one BOS at most, ``encode`` sees to itself.)
    DataError names the first difference with the ids around it.
    """
    found = example(tokenizer, row, Masking(False, mask_history, enable_thinking), True)
    whole = found.chosen if isinstance(found, EncodedPair) else found
    answer = row.get("chosen") or row.get("completion") or []
    messages = row.get("messages") or [*row["prompt"], *answer]
    last = max(i for i, m in enumerate(messages) if m["role"] == "assistant")
    thinking = {} if enable_thinking is None else {"enable_thinking": enable_thinking}
    if not whole.notes:  # else the ids differ on purpose, and the notes say why
        served = tokenizer.apply_chat_template(
            list(messages), tools=tools_of(row), return_dict=False, **thinking
        )
        _same(tokenizer, row, whole.input_ids, served, "apply_chat_template gives")
    tools = row.get("tools")
    asked = prompt_ids(tokenizer, messages[:last], tools=tools, enable_thinking=enable_thinking)
    shown = whole.input_ids[: len(asked)]
    _same(tokenizer, row, shown, asked, "the prompt that asks for the last answer is")
    if messages[last].get("weight", 1) and whole.labels[len(asked)] == IGNORED:
        raise DataError(f"{place(row)}the first token of the last answer would not be trained.")
    learned = tokenizer.decode([i for i in whole.labels if i != IGNORED])
    for message in [messages[last]] if mask_history or answer else messages:
        trained = message["role"] == "assistant" and message.get("weight", 1)
        for text in said(message.get("content") or "") if trained else []:
            if text not in learned:
                raise DataError(f"{place(row)}the trained tokens do not read as {text!r}.")
    return whole


def _encode_chat(
    tokenizer: PreTrainedTokenizerBase,
    row: Row,
    messages: Messages,
    start: int,
    masking: Masking,
    with_tokens: bool,
) -> Encoded:
    """A conversation; only answers from message ``start`` on are trained."""
    chat = Chat(tokenizer, {**row, "messages": messages}, masking.enable_thinking)
    last = max((i for i, m in enumerate(messages) if m["role"] == "assistant"), default=-1)
    why = [
        _why(m, i < start or (masking.mask_history and i < last)) for i, m in enumerate(messages)
    ]
    answers = chat.answers(lambda i: why[i] == "trained")
    cuts, notes = chat.harmless()
    edges = [edge for span in answers.values() for edge in span]
    ids, spans, split = _tokenize(tokenizer, chat.text, cuts, edges)
    notes = [*notes, *(["a token that would reach over the edge of an answer is split"] * split)]
    owners = _owners(chat, spans, with_tokens)
    reasons = [_REASONS.get(role, role) for role in owners]
    for number, (begin, end) in answers.items():
        inside = [k for k, span in enumerate(spans) if begin <= span[0] and span[1] <= end]
        if why[number] == "trained":
            _check_end(tokenizer, row, [ids[k] for k in inside])
        for k in inside:
            owners[k], reasons[k] = "assistant", why[number]
    if masking.train_on_prompt:
        reasons = [r if r == "weight 0" else "trained" for r in reasons]
    if bos := _missing_bos(tokenizer, ids):
        ids, owners, reasons = bos + ids, ["template", *owners], ["template", *reasons]
        notes = [*notes, "the tokenizer's BOS token is added: the chat template writes none"]
    return _finished(tokenizer, row, ids, owners, reasons, notes, with_tokens)


def _encode_text(tokenizer: PreTrainedTokenizerBase, row: Row, with_tokens: bool) -> Encoded:
    text = row["text"]
    found = list(controls(tokenizer)[0].finditer(text))
    ids = _tokenize(tokenizer, text, [match.start() + 1 for match in found])[0]
    # The base model ends its texts with <|endoftext|>, not with the end of a chat turn.
    ids = [*_missing_bos(tokenizer, ids), *ids, text_end_id(tokenizer)]
    notes = [
        f"{token!r} in a text is encoded as plain text" for token in {m.group() for m in found}
    ]
    whole = ["text"] * len(ids)
    return _finished(tokenizer, row, ids, whole, ["trained"] * len(ids), notes, with_tokens)


def _finished(
    tokenizer: PreTrainedTokenizerBase, row: Row, ids: list[int], roles: list[str],
    reasons: list[str], notes: list[str], with_tokens: bool,
) -> Encoded:  # fmt: skip
    labels = [i if r == "trained" else IGNORED for i, r in zip(ids, reasons, strict=True)]
    if all(label == IGNORED for label in labels):
        raise DataError(
            f"{place(row)}no token of this example would be trained: it has no answer, or none "
            "with a weight above 0."
        )
    if not with_tokens:
        return Encoded(ids, labels, roles, reasons, notes=notes)
    added = tokenizer.added_tokens_decoder
    control = [i in added for i in ids]
    return Encoded(ids, labels, roles, reasons, pieces(tokenizer, ids), control, notes)


def _why(message: Row, earlier: bool) -> str:
    """Why an answer is trained or not."""
    if not message.get("weight", 1):
        return "weight 0"
    return "earlier answer" if earlier else "trained"


def _owners(chat: Chat, spans: list[Span], with_tokens: bool) -> list[str]:
    """Who wrote each token outside the answers: a role, or the template."""
    if not with_tokens or chat.fields is None:
        return ["prompt"] * len(spans)
    written = {message: chat.span(message) for message in {field.message for field in chat.fields}}
    parts = sorted((span, message) for message, span in written.items() if span)
    owners = []
    for begin, _ in spans:
        at = bisect_right(parts, begin, key=lambda part: part[0][0]) - 1
        (_, stop), message = parts[at] if at >= 0 else ((0, 0), 0)
        role = "tools" if message < 0 else chat.messages[message]["role"]
        owners.append(role if begin < stop else "template")
    return owners


def _tokenize(
    tokenizer: PreTrainedTokenizerBase, text: str, cuts: Sequence[int], edges: Sequence[int] = ()
) -> tuple[list[int], list[Span], bool]:
    """Ids, the span of text behind each, and whether an edge split a token. None reaches over a
    cut, or over an edge of an answer: the prompt that asks for it ends there."""
    ids, spans = _pieces_of(tokenizer, text, sorted(cuts))
    reached = {edge for edge in edges for begin, end in spans if begin < edge < end}
    if not cuts and not reached:
        return ids, spans, False
    plain = ids if not cuts else _pieces_of(tokenizer, text, [])[0]
    ids, spans = _pieces_of(tokenizer, text, sorted({*cuts, *reached}))
    if tokenizer.decode(ids) != tokenizer.decode(plain):
        raise ModelError(
            "this tokenizer changes the text where it is cut, so a control token in the data (or "
            "white space where an answer begins) cannot be kept apart. Remove it from the row."
        )
    return ids, spans, bool(reached)


def _pieces_of(
    tokenizer: PreTrainedTokenizerBase, text: str, cuts: list[int]
) -> tuple[list[int], list[Span]]:
    ids: list[int] = []
    spans: list[Span] = []
    for start, stop in zip([0, *cuts], [*cuts, len(text)], strict=True):
        part = tokenizer(text[start:stop], add_special_tokens=False, return_offsets_mapping=True)
        ids += part["input_ids"]
        reached = 0
        for begin, end in part["offset_mapping"]:
            # Some tokenizers leave a token's leading blank out of its span.
            spans.append((start + min(begin, reached), start + end))
            reached = end
    return ids, spans


@lru_cache(maxsize=8)
def _adds_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    bos = tokenizer.bos_token_id
    return bos is not None and tokenizer("a")["input_ids"][:1] == [bos]


def _missing_bos(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[int]:
    """The BOS that the tokenizer puts before texts, where ``ids`` do not begin with it."""
    bos = tokenizer.bos_token_id
    if bos is not None and ids[:2] == [bos, bos]:
        raise ModelError("the chat template writes the BOS token twice. Remove one from it.")
    return [bos] if _adds_bos(tokenizer) and ids[:1] != [bos] else []


def _check_end(tokenizer: PreTrainedTokenizerBase, row: Row, ids: list[int]) -> None:
    """ModelError when an answer ends without a control token: nothing would teach to stop."""
    ends = {tokenizer.eos_token_id, *tokenizer.all_special_ids}
    added = tokenizer.added_tokens_decoder
    if not any(i in ends or (i in added and added[i].special) for i in ids[-3:]):
        raise ModelError(
            f"{place(row)}the chat template writes no end-of-turn token after an answer, or leaves "
            "it out of {% generation %}, so the model would never learn to stop. Choose another "
            "template."
        )


def _same(
    tokenizer: PreTrainedTokenizerBase, row: Row, ours: list[int], theirs: list[int], what: str
) -> None:
    """DataError with the tokens around the first place where both differ."""
    if ours == theirs:
        return
    pairs = enumerate(zip(ours, theirs, strict=False))
    at = next((k for k, (a, b) in pairs if a != b), min(len(ours), len(theirs)))
    around = slice(max(at - 3, 0), at + 4)
    raise DataError(
        f"{place(row)}training and serving differ at token {at}: trained is {ours[around]} "
        f"({tokenizer.decode(ours[around])!r}), {what} {theirs[around]} "
        f"({tokenizer.decode(theirs[around])!r}). Choose a template that renders both alike."
    )


def text_end_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id that ends a plain text: ``<|endoftext|>`` where the vocabulary has it, else EOS."""
    vocabulary_id = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    known = vocabulary_id is not None and vocabulary_id != tokenizer.unk_token_id
    return vocabulary_id if known else tokenizer.eos_token_id


def question(text: str, system: str | None = None) -> list[dict[str, str]]:
    """One user turn, after the system prompt if there is one."""
    turn = {"role": "user", "content": text}
    return [{"role": "system", "content": system}, turn] if system else [turn]


def asked(row: Row) -> list[Row]:
    """The messages of a row up to its last answer: what the model is asked.

    >>> asked({"messages": [{"role": "user", "content": "Hi"},
    ...                     {"role": "assistant", "content": "Hello."}]})
    [{'role': 'user', 'content': 'Hi'}]
    """
    turns = row.get("prompt") or row.get("messages") or []
    last = max((i for i, turn in enumerate(turns) if turn["role"] == "assistant"), default=None)
    found = list(turns if last is None or "prompt" in row else turns[:last])
    if not any(turn["role"] == "user" for turn in found):
        raise DataError(f"{place(row)}no question in this row, so no answer to sample.")
    return found


def with_system(row: Row, system: str | None) -> Row:
    """The row with ``system`` as its first message, unless it has one of its own."""
    key = "messages" if "messages" in row else "prompt"
    if not system or key not in row or row[key][0]["role"] == "system":
        return row
    return {**row, key: [{"role": "system", "content": system}, *row[key]]}
