"""What can be wrong with rows that can be read: one small function, or one pattern, for each cause.

A check takes the `Exam` (all rows, and what they are held against) and yields a `Hit` for each
place. A pattern is looked for in every text. Taught in notebooks/03_data_formats.ipynb.
"""

from __future__ import annotations

import difflib
import json
import re
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from typing import Any, NamedTuple

from ftlab.data import mix
from ftlab.data.patterns import PATTERNS, Pattern, replaced, script
from ftlab.data.records import Record
from ftlab.errors import Error

Row = dict[str, Any]


class Item(NamedTuple):
    """A row that can be used: as the file has it, as a conversation, and its texts."""

    record: Record
    row: Row
    texts: list[tuple[str, str]]  # (role, text) of everything that a model would read
    joined: str  # all of them
    question: str  # the last turn before the answer
    answer: str  # the last answer


def as_item(record: Record, row: Row) -> Item:
    """A row with what the checks want to know of it."""
    said, (turns, answer) = texts(row), dialogue(row)
    question = str(turns[-1].get("content") or "") if turns else ""
    return Item(record, row, said, "\0".join([text for _, text in said]), question, answer)


class Hit(NamedTuple):
    """One place. `text` is the text it is in, `spot` the offending part of it."""

    reason: str
    fix: str
    item: Item | None = None  # None: the data as a whole
    text: str = ""
    spot: str = ""
    shown: str = ""  # instead of the spot, where that is private
    field: str = ""  # where the fault is a field, not a text in it
    level: str = ""  # instead of the check's


@dataclass
class Exam:
    """All rows, and what the user asked to hold them against."""

    items: list[Item]
    tokenizer: Any = None
    cutoff_len: int | None = None
    against: dict[str, str] = field(default_factory=dict)  # question -> where the other file has it
    columns: frozenset[str] = frozenset()  # fields that the format has

    @cached_property
    def encoded(self) -> list[list[Any] | Error]:
        """Per row: its encoded examples (two for a preference), or why there are none."""
        from ftlab.chat import encode

        found: list[list[Any] | Error] = []
        for item in self.items:
            try:
                one = encode(self.tokenizer, item.row, with_tokens=False)
                found.append([one.chosen, one.rejected] if hasattr(one, "chosen") else [one])
            except Error as error:
                found.append(error)
        return found

    @cached_property
    def lengths(self) -> list[int]:
        """Tokens of each row where there is a tokenizer, else characters."""
        if self.tokenizer is None:
            return [len(item.joined) for item in self.items]
        return [max(map(len, e)) if isinstance(e, list) else 0 for e in self.encoded]

    @cached_property
    def twins(self) -> list[tuple[Item, Item, bool]]:
        """(row, an earlier row like it, whether it says exactly the same)."""
        rows = [item.row for item in self.items]
        return [
            (self.items[a], self.items[b], mix.content(rows[a]) == mix.content(rows[b]))
            for a, b in (mix.twins(rows, near=0.8) if rows else ())
        ]


class Check(NamedTuple):
    """A cause: how it is found, how grave it is, whether a fixed copy leaves the row out."""

    code: str
    level: str  # error, warning, note
    find: Callable[[Exam], Iterable[Hit]]
    remove: bool = False
    mend: Callable[[str], str] | None = None  # text -> text without the fault


CHECKS: list[Check] = []


def check(
    code: str, level: str, remove: bool = False, mend: Callable[[str], str] | None = None
) -> Callable[[Callable[[Exam], Iterable[Hit]]], Callable[[Exam], Iterable[Hit]]]:
    """Enter a function into `CHECKS`."""

    def enter(find: Callable[[Exam], Iterable[Hit]]) -> Callable[[Exam], Iterable[Hit]]:
        CHECKS.append(Check(code, level, find, remove, mend))
        return find

    return enter


# --- rows as texts --------------------------------------------------------------------------------


def texts(row: Row) -> list[tuple[str, str]]:
    """(role, text) of everything in a row that a model would read."""
    if "text" in row:
        return [("text", row["text"])]
    found = []
    for part in ("messages", "prompt", "chosen", "rejected", "completion"):
        for message in row.get(part) or ():
            role = message["role"]
            if thought := message.get("reasoning_content"):
                found.append((role, thought))
            found.append((role, message.get("content") or ""))
            for call in message.get("tool_calls") or ():
                found.append((role, json.dumps(call, ensure_ascii=False)))
    return found


def dialogue(row: Row) -> tuple[list[Row], str]:
    """What is asked (all turns before the last answer) and the last answer."""
    if "messages" in row:
        return row["messages"][:-1], row["messages"][-1].get("content") or ""
    answer = row.get("chosen") or row.get("completion") or [{"content": row.get("text", "")}]
    return row.get("prompt") or [], answer[-1].get("content") or ""


def normal(text: str) -> str:
    """Text without what makes no difference to a reader: case, blanks."""
    return " ".join(text.casefold().split())


def asked(row: Row) -> str:
    """The question of a row, normalized, for finding it again; a plain text is its own."""
    turns, answer = dialogue(row)
    return (
        normal("\n".join(str(turn.get("content")) for turn in turns)) if turns else normal(answer)
    )


# --- patterns ------------------------------------------------------------------------------------


def _search(pattern: Pattern) -> Callable[[Exam], Iterator[Hit]]:
    regex, roles = re.compile(pattern.regex), pattern.roles.split()

    def find(exam: Exam) -> Iterator[Hit]:
        for item in exam.items:
            if not pattern.may(item.joined) or regex.search(item.joined) is None:
                continue
            for role, text in item.texts:
                spots = regex.findall(text) if not roles or role in roles else ()
                if spot := next(filter(pattern.means, spots), None):
                    shown = f"{spot[:2]}*** ({len(spot)} characters)" if pattern.private else ""
                    yield Hit(pattern.reason, pattern.fix, item, text, spot, shown)

    return find


def _mend(pattern: Pattern) -> Callable[[str], str] | None:
    return partial(replaced, pattern) if isinstance(pattern.mend, str) else pattern.mend


CHECKS += [Check(p.code, p.level, _search(p), p.remove, _mend(p)) for p in PATTERNS]


# --- checks of rows -------------------------------------------------------------------------------


@check("outer blanks", "note", mend=lambda text: text.lstrip("\r\n").rstrip())
def _blanks(exam: Exam) -> Iterator[Hit]:
    """Blanks before the first word may be the indentation of code; the others say nothing."""
    for item in exam.items:
        for role, text in item.texts:
            if role != "text" and (text[-1:].isspace() or text[:1] in ("\r", "\n")):
                yield Hit("ends with a blank, or begins with an empty line", "--fix removes it",
                          item, text, text[-1:] if text[-1:].isspace() else text[:1])  # fmt: skip
                break


@check("chosen = rejected", "error", remove=True)
def _equal_pair(exam: Exam) -> Iterator[Hit]:
    for item in exam.items:
        if "rejected" in item.row:
            good, bad = (item.row[name][-1].get("content") for name in ("chosen", "rejected"))
            if good and bad and normal(good) == normal(bad):
                reason = "the chosen and the rejected answer are the same"
                yield Hit(reason, "write two answers or remove the row", item, good, good)


@check("duplicate", "warning", remove=True)
def _duplicates(exam: Exam) -> Iterator[Hit]:
    """A few rows that occur twice do no harm."""
    found = [(item, twin) for item, twin, same in exam.twins if same]
    level = "warning" if len(found) >= 0.01 * len(exam.items) else "note"
    for item, twin in found:
        yield Hit(f"the same as {place(twin)}", "remove one of them", item, level=level)


@check("near-duplicate", "note")
def _near_duplicates(exam: Exam) -> Iterator[Hit]:
    for item, twin, same in exam.twins:
        if not same:
            fix = "data.deduplicated(near=0.8) keeps one of them"
            yield Hit(f"almost the same as {place(twin)}", fix, item)


@check("different answers", "note")
def _different_answers(exam: Exam) -> Iterator[Hit]:
    """Two wordings of one answer are a choice; two facts are a mistake: a person has to look."""
    first: dict[str, tuple[Item, str]] = {}
    for item in exam.items:
        if "messages" in item.row:
            answer = normal(item.answer)
            earlier, known = first.setdefault(asked(item.row), (item, answer))
            if answer != known:
                reason = f"the question of {place(earlier)} with another answer"
                yield Hit(reason, "look whether both are true", item, item.answer, item.answer)


@check("contradiction", "warning")
def _contradictions(exam: Exam) -> Iterator[Hit]:
    """An answer that is good in one row and bad in another, to the same question."""
    seen: dict[tuple[str, str], tuple[bool, Item]] = {}
    for item in exam.items:
        row, question = item.row, asked(item.row)
        parts = [("chosen", True), ("rejected", False)] if "rejected" in row else []
        parts += [("completion", row["label"])] if "label" in row else []
        for part, good in parts:
            answer = row[part][-1].get("content") or ""
            verdict, earlier = seen.setdefault((question, normal(answer)), (good, item))
            if verdict != good and earlier is not item:
                words = "good" if verdict else "bad"
                reason = f"{place(earlier)} calls the same answer {words}"
                yield Hit(reason, "decide which, and correct the other", item, answer, answer)


@check("overlap", "error", remove=True)
def _overlap(exam: Exam) -> Iterator[Hit]:
    for item in exam.items if exam.against else ():
        if twin := exam.against.get(asked(item.row)):
            reason = f"the same question as {twin}: a score there would be of memory"
            yield Hit(reason, "remove it from one of the two", item)


_TRANSLATES = re.compile(
    r"[Tt]ranslat|翻译|译[成为]|\bin [A-Z]\w+|[Ee]nglish|[Cc]hinese|[中英日法德俄]文|[英汉法德日]语"
)


@check("other language", "warning")
def _other_language(exam: Exam) -> Iterable[Hit]:
    """Where every fifth row does it, it is the task."""
    hits = []
    for item in exam.items:
        question, answer = item.question, item.answer
        if question.isascii() and answer.isascii():
            continue
        kinds = {script(question, 12), script(answer, 12)} - {"none", "mixed"}
        if len(kinds) == 2 and "```" not in answer and not _TRANSLATES.search(item.joined):
            reason = f"the question is {script(question)}, the answer {script(answer)}"
            hits.append(Hit(reason, "answer in the language of the question", item, answer, answer))
    return hits if len(hits) < 0.2 * len(exam.items) or len(exam.items) < 5 else []


@lru_cache(maxsize=4096)
def _meant(name: str, fields: tuple[str, ...], columns: frozenset[str]) -> str | None:
    """The column of the format that a field of a row is a misspelling of."""
    free = columns.difference(fields)
    near = difflib.get_close_matches(name.strip().lower(), free, 1, 0.8)
    return near[0] if near and name not in columns else None


@check("misspelt field", "warning")
def _misspelt(exam: Exam) -> Iterator[Hit]:
    for item in exam.items:
        for name in item.row["extra"]:
            if meant := _meant(str(name), tuple(item.record.value), exam.columns):
                fix = f'rename it to "{meant}"; otherwise nothing reads it'
                yield Hit(f"looks like {meant!r}", fix, item, field=str(name))


@check("rare field", "note")
def _rare_fields(exam: Exam) -> Iterator[Hit]:
    counts = Counter(name for item in exam.items for name in item.row["extra"])
    few = min(max(1, 0.05 * len(exam.items)), len(exam.items) - 1)
    rare = {name for name, count in counts.items() if count <= few}
    for item in exam.items if rare else ():
        for name in rare & item.row["extra"].keys():
            if not _meant(str(name), tuple(item.record.value), exam.columns):
                reason = "few rows have this field, and nothing reads it"
                yield Hit(reason, "keep it if it is meant so", item, field=str(name))


@check("few rows", "warning")
def _few_rows(exam: Exam) -> Iterator[Hit]:
    if len(exam.items) == 1:
        yield Hit("one row only: nothing can be held out", "add rows", exam.items[0])


@check("label balance", "warning")
def _labels(exam: Exam) -> Iterator[Hit]:
    labels = [item.row["label"] for item in exam.items if "label" in item.row]
    good = sum(labels)
    if labels and min(good, len(labels) - good) < 0.2 * len(labels):
        reason = f"{good} answers are called good, {len(labels) - good} bad"
        yield Hit(reason, "add the missing kind, or set kto_chosen_weight and kto_rejected_weight")


@check("very long", "note")
def _very_long(exam: Exam) -> Iterator[Hit]:
    usual = statistics.median(len(one.joined) for one in exam.items) if len(exam.items) > 9 else 0
    for item in exam.items if usual else ():
        if len(item.joined) > 10 * max(usual, 20):
            reason = f"{len(item.joined):,} characters; the middle row has {usual:g}"
            yield Hit(reason, "look at the row", item)


@check("very short answer", "note")
def _very_short(exam: Exam) -> Iterator[Hit]:
    answers = [len(item.answer) for item in exam.items]
    usual = statistics.median(answers) if len(answers) > 9 else 0
    for item, length in zip(exam.items, answers, strict=True):
        if 0 < length <= usual / 20:
            reason = f"{length} characters; the middle answer has {usual:g}"
            yield Hit(reason, "look at the row", item, item.answer, item.answer)


# --- checks of tokens -----------------------------------------------------------------------------


@check("too long", "error")
def _too_long(exam: Exam) -> Iterator[Hit]:
    """Characters are no tokens: without a tokenizer nothing is said here."""
    limit = exam.cutoff_len or 0
    for item, length in zip(exam.items, exam.lengths, strict=True):
        if exam.tokenizer and 0 < limit < length:
            reason = f"{length} tokens, cutoff_len is {limit}: the end would be lost"
            yield Hit(
                reason, "raise cutoff_len, shorten the row, or choose truncation_strategy", item
            )


@check("not encodable", "error")
def _not_encodable(exam: Exam) -> Iterator[Hit]:
    """Among others, a template that does not train the end of the answer."""
    for item, encoded in zip(exam.items, exam.encoded, strict=True) if exam.tokenizer else ():
        if isinstance(encoded, Error):
            words = str(encoded).removeprefix(f"{place(item)}: ").removesuffix(".")
            reason, _, fix = words.rpartition(". ")
            yield Hit(reason or words, fix or "change the row or the template", item)


def place(item: Item) -> str:
    """`my.jsonl:3`"""
    return f"{item.record.path.name}:{item.record.line}"
