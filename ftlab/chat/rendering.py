"""Conversation -> the text of the chat template, and who wrote which part of it.

The template itself says little about that. So it is rendered once more with invisible marks
around every content: where they come out is where the content stands. Taking the marks away must
give the first rendering again, or nothing is concluded.

Taught in notebooks/04_loss_masking.ipynb.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from ftlab.errors import DataError, ModelError

Row = dict[str, Any]
Span = tuple[int, int]

_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
_TAG = re.compile(r"(<[^<>\s]{1,40}>)")
_TAGS = (
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
)
_THOUGHTS = re.compile(r"<think>.*?</think>", re.DOTALL)
_MARK = 0x100000  # the first of 65,534 code points that no text uses (private use, plane 16)
_MARKS = re.compile("([\U00100000-\U0010fffd])")
# A template may look at these, so no mark goes into them.
_UNMARKED = ("role", "type", "weight", "id", "tool_call_id")
_TOOLS = -1  # the place of the tools, where messages have theirs


class Field(NamedTuple):
    """A content inside the rendering: the message it belongs to, where it starts and ends."""

    message: int
    start: int
    end: int


class Chat:
    """One rendered conversation. ``text`` is what ``apply_chat_template`` gives."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        row: Row,
        thinking: bool | None = None,
        asking: bool = False,
    ) -> None:
        self.tokenizer, self.row, self.thinking, self.asking = tokenizer, row, thinking, asking
        self.messages: list[Row] = list(row["messages"])
        self.tools = tools_of(row)
        self.text, self.marks = self._render(self.messages, self.tools, thinking, asking)
        self._check_complete()

    def _render(
        self, messages: Sequence[Row], tools: Any, thinking: bool | None, asking: bool
    ) -> tuple[str, list[Span] | None]:
        """The text, and the spans that {% generation %} marks (None in templates without it)."""
        template = _template(self.tokenizer, tools)
        marked = _GENERATION.search(template) is not None
        options = {} if thinking is None else {"enable_thinking": thinking}
        try:
            texts, spans = render_jinja_template(
                [list(messages)],
                tools=tools,
                chat_template=template,
                return_assistant_tokens_mask=marked,
                add_generation_prompt=asking,
                **{**self.tokenizer.special_tokens_map, **options},
            )
        except (TemplateError, TypeError, ValueError, AttributeError) as error:
            raise DataError(
                f"{place(self.row)}the chat template of {_name(self.tokenizer)} refuses this "
                f"conversation: {error}. Change the row, or choose another template."
            ) from error
        return texts[0], list(spans[0]) if marked else None

    def _check_complete(self) -> None:
        """DataError for what the template leaves out or rewrites (thoughts may go)."""
        wanted = [("the tools", tool["function"].get("name")) for tool in self.tools or []]
        for number, message in enumerate(self.messages, 1):
            what, content = f"message {number} ({message['role']})", message.get("content")
            wanted += [(what, text) for text in said(content if isinstance(content, str) else "")]
            calls = message.get("tool_calls") or []
            wanted += [(what, call.get("function", call).get("name")) for call in calls]
        for what, text in wanted:
            if (text or "").strip() not in self.text:
                raise DataError(
                    f"{place(self.row)}the chat template of {_name(self.tokenizer)} leaves out or "
                    f"rewrites {what}. Choose another template."
                )

    @cached_property
    def fields(self) -> list[Field] | None:
        """Every content, in order of the text; None where the marks change what is rendered."""
        return self._locate(self.text, self.messages, self.tools, self.thinking, self.asking)

    def _locate(
        self, text: str, messages: Sequence[Row], tools: Any, thinking: bool | None, asking: bool
    ) -> list[Field] | None:
        if _MARKS.search(text):
            return None
        marker = _Marker()
        marked = [marker.marked(message, i) for i, message in enumerate(messages)]
        shown, _ = self._render(marked, marker.marked(tools, _TOOLS), thinking, asking)
        parts = _MARKS.split(shown)
        if "".join(parts[::2]) != text:
            return None
        found: dict[int, list[int]] = {}
        at = 0
        for part in parts:
            if len(part) == 1 and ord(part) >= _MARK:
                content = (ord(part) - _MARK) // 2
                found.setdefault(content, []).append(at - (ord(part) % 2 == 0))
            else:
                at += len(part)
        return sorted(
            (_widened(text, marker.contents[c], min(ats), max(ats)) for c, ats in found.items()),
            key=lambda field: field.start,
        )

    def span(self, message: int) -> Span | None:
        """Where the message's own contents begin and end."""
        mine = [field for field in self.fields or [] if field.message == message]
        return (min(f.start for f in mine), max(f.end for f in mine)) if mine else None

    def answers(self, trained: Callable[[int], bool]) -> dict[int, Span]:
        """What the assistant produces in each of its messages, through the end of the turn; exact
        where ``trained`` (a test of the message's place), else ModelError."""
        places = [i for i, m in enumerate(self.messages) if m["role"] == "assistant"]
        if self.marks is not None:
            return self._marked(places, self.marks)
        found: dict[int, Span | None] = {}
        for i in places:
            try:
                found[i] = (self._start(i), self._end(i))
            except ModelError:
                if trained(i):
                    raise
                found[i] = self.span(i)
        return {i: span for i, span in found.items() if span}

    def _marked(self, places: list[int], marks: list[Span]) -> dict[int, Span]:
        """The answers as {% generation %} marks them."""
        if len(marks) == len(places):
            return dict(zip(places, marks, strict=True))
        found: dict[int, Span] = {}
        for start, end in marks:  # several marked parts in one answer: one span over them
            owners = [i for i in places if (own := self.span(i)) and own[0] < end]
            if owners:
                found[owners[-1]] = (found.get(owners[-1], (start, end))[0], end)
        return found

    def _start(self, answer: int) -> int:
        """Where the prompt that asks for this answer ends: its tail must precede the answer."""
        before = self.span(answer - 1) if answer else None
        tail = ""
        # Earlier turns are written as if thinking had not been switched off.
        for thinking in dict.fromkeys((self.thinking, None)):
            asked, tail = self._prompt(answer, thinking, asking=True)
            anchor = before[1] if before else len(asked) - len(tail)
            if self.text.startswith(tail, anchor) and (before or self.text.startswith(asked)):
                return anchor + len(tail)
        raise self._inexact(
            f"the prompt that asks for message {answer + 1} ends in {tail[-60:]!r}, and in the "
            "whole conversation something else stands there"
        )

    def _end(self, answer: int) -> int:
        """Where the text ends that the conversation would end with, stopped after this answer."""
        own = self.span(answer)
        if answer == len(self.messages) - 1:
            return len(self.text)
        if own is None:
            raise self._inexact(f"message {answer + 1} cannot be found in its text")
        _, tail = self._prompt(answer + 1, self.thinking, asking=False)
        rest = self.text[own[1] :]
        shared = len(os.path.commonprefix([tail, rest]))
        for text in (tail, rest[: len(tail) + 40]):  # half a control token is no end of a turn
            for token in controls(self.tokenizer)[2].finditer(text):
                if token.start() < shared < token.end():
                    shared = token.start()
        if not shared:
            raise self._inexact(f"message {answer + 1} ends otherwise than as the last message")
        return own[1] + shared

    def _prompt(self, stop: int, thinking: bool | None, asking: bool) -> tuple[str, str]:
        """The first ``stop`` messages rendered alone, and what follows their last content."""
        if not stop:
            raise DataError(f"{place(self.row)}the conversation begins with an answer.")
        messages = self.messages[:stop]
        text, _ = self._render(messages, self.tools, thinking, asking)
        fields = self._locate(text, messages, self.tools, thinking, asking)
        if fields is None:
            raise self._inexact("it changes with the contents")
        last = [field.end for field in fields if field.message == stop - 1]
        return text, text[max(last) :] if last else text

    def _inexact(self, why: str) -> ModelError:
        return ModelError(
            f"{place(self.row)}what is trained cannot be told exactly with the chat template of "
            f"{_name(self.tokenizer)}: {why}. Train the last answer only (mask_history: true), "
            "name another template, or mark the answers in this one with {% generation %}."
        )

    def harmless(self) -> tuple[list[int], list[str]]:
        """Where to cut the text so that control tokens written in contents stay ordinary text, and
        a note for each; DataError when that cannot be done for all."""
        named = {_TOOLS: "tools"} | {i: m["role"] for i, m in enumerate(self.messages)}
        written = [
            match
            for i, source in [(_TOOLS, self.tools), *enumerate(self.messages)]
            for match in self._control(i).findall(json.dumps(source, ensure_ascii=False))
        ]
        if not written:
            return [], []
        found = [
            (
                match.start() + 1,
                f"{match.group()!r} in a {named[field.message]} text is encoded as plain text",
            )
            for field in self.fields or []
            for match in self._control(field.message).finditer(self.text, field.start, field.end)
        ]
        if len(found) != len(written):
            raise DataError(
                f"{place(self.row)}the control token {written[0]!r} stands in the data where it "
                "cannot be made harmless. Remove it from the row."
            )
        return [cut for cut, _ in found], list(dict.fromkeys(note for _, note in found))

    def _control(self, message: int) -> re.Pattern[str]:
        answer = message != _TOOLS and self.messages[message]["role"] == "assistant"
        return controls(self.tokenizer)[1 if answer else 0]


class _Marker:
    """Puts a mark after the first and after the last letter of every content."""

    def __init__(self) -> None:
        self.contents: list[
            tuple[int, str, str]
        ] = []  # message, what is before and after the marks

    def marked(self, value: Any, message: int) -> Any:
        """A copy of the value with marks in all its texts."""
        if isinstance(value, dict):
            return {k: v if k in _UNMARKED else self.marked(v, message) for k, v in value.items()}
        if isinstance(value, list):
            return [self.marked(item, message) for item in value]
        return self._text(value, message) if isinstance(value, str) and value.strip() else value

    def _text(self, text: str, message: int) -> str:
        chunks = _TAG.split(text)
        if not any(chunk.strip() for chunk in chunks[::2]):
            chunks = [text]
        begin, end = (chr(_MARK + 2 * len(self.contents) + side) for side in (0, 1))
        shown, before, after = "", None, ""
        for number, chunk in enumerate(chunks):
            core = chunk.strip()
            if number % 2 or not core:
                shown, after = shown + chunk, after + chunk
                continue
            start = chunk.index(core)
            stop = start + len(core)
            before = shown + chunk[:start] if before is None else before
            shown += chunk[: start + 1] + begin + chunk[start + 1 : stop] + end + chunk[stop:]
            after = chunk[stop:]
        self.contents.append((message, before or "", after))
        return shown


def _widened(text: str, content: tuple[int, str, str], start: int, end: int) -> Field:
    """The field with the white space and tags at its edges, where the template kept them."""
    message, before, after = content
    for edge in (before, before.lstrip(), json.dumps(before, ensure_ascii=False)[1:-1]):
        if edge and text.endswith(edge, 0, start):
            start -= len(edge)
            break
    for edge in (after, after.rstrip(), json.dumps(after, ensure_ascii=False)[1:-1]):
        if edge and text.startswith(edge, end):
            end += len(edge)
            break
    return Field(message, start, end)


@lru_cache(maxsize=8)
def controls(tokenizer: PreTrainedTokenizerBase) -> tuple[re.Pattern[str], ...]:
    """What counts as a control token: in a prompt, in an answer (which may think and call tools),
    and in the template's own text."""
    added = list(tokenizer.added_tokens_decoder.values())
    special = {token.content for token in added if token.special and token.content.strip()}
    every = {token.content for token in added}
    prompt = special | {tag for tag in _TAGS if tag in every}
    return tuple(_any_of(words) for words in (prompt, special - set(_TAGS), every))


def _any_of(words: set[str]) -> re.Pattern[str]:
    longest_first = sorted(words, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")


def tools_of(row: Row) -> list[Row] | None:
    """The row's tools, each in the wrapper {"type": "function"} that templates expect."""
    tools = row.get("tools") or []
    wrapped = [t if "function" in t else {"type": "function", "function": t} for t in tools]
    return wrapped or None


def said(content: str) -> list[str]:
    """The parts of an answer that are no thoughts.

    >>> said("Well.<think>1 + 1</think> Two."), said("1 + 1</think>Two.")
    (['Well.', 'Two.'], ['Two.'])
    """
    parts = _THOUGHTS.split(content)
    return [text for part in parts if (text := part.split("</think>")[-1].strip())]


def place(row: Row) -> str:
    """``file:line: `` of a row that knows it."""
    return f"{row['source']}: " if row.get("source") else ""


def _name(tokenizer: PreTrainedTokenizerBase) -> str:
    """Its name on a hub, or the last part of its folder."""
    folder = Path(name := tokenizer.name_or_path)
    return folder.name if folder.is_dir() and name else name or "this tokenizer"


def _template(tokenizer: PreTrainedTokenizerBase, tools: Any) -> str:
    try:
        return tokenizer.get_chat_template(None, tools)
    except ValueError as error:
        raise ModelError(
            f"{_name(tokenizer)}: the tokenizer has no chat template, so a conversation cannot be "
            "rendered. Name one in the recipe (template: alpaca needs no special tokens), use an "
            "instruction-tuned tokenizer, or train on plain text (stage: pt)."
        ) from error
