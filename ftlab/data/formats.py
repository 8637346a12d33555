"""Rows as people write them -> conversations in TRL's format: messages, preference, KTO, text.

A format is data, not code: an entry of `FORMATS` says which field plays which role, in the words
of LLaMA-Factory's dataset_info.json, and one function converts them all.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from reprlib import repr as short
from typing import Any, NamedTuple

from ftlab.data.one_row import convert_row, nearest
from ftlab.data.records import BadRow, Problem, Record
from ftlab.data.shapes import FORMATS, MEDIA, OPTIONAL, ROLES, TAGS, Format, Row, truth
from ftlab.data.strict_json import TOO_DEEP
from ftlab.data.turns import Names, kind_of
from ftlab.errors import DataError

__all__ = ["FORMATS", "Converted", "Format", "Names", "Row", "choose", "convert", "explain"]


class Converted(NamedTuple):
    """Conversations, rejected rows, and the format (None where no row looked like any)."""

    rows: list[Row]
    rejected: list[BadRow]
    form: Format | None


def convert(records: Sequence[Record], formats: Sequence[Format]) -> Converted:
    """All records in one format: the one that most of them have."""
    kinds = list(_detect(records, formats))
    form = _most_frequent(records, kinds, formats)
    example = _source(records[kinds.index(form)]) if form in kinds else ""
    rows, rejected = [], []
    mapped = frozenset(form.columns.values()) if form else frozenset()
    for record, kind in zip(records, kinds, strict=True):
        try:
            if isinstance(row := record.value, Problem):
                raise row
            if not isinstance(row, dict) or form is None:
                raise _unknown_format(row)
            if (
                example
                and form.body not in row
                and (other := kind or next(_detect([record], FORMATS)))
            ):
                reason = f"the row is {other.title}, but {example} is {form.title}"
                raise Problem(reason, "keep one format in one dataset")
            converted = convert_row(row, form)
            extra = {key: value for key, value in row.items() if key not in mapped}
            rows.append({**converted, "source": _source(record), "extra": extra})
        except (Problem, RecursionError) as error:
            why = error.args if isinstance(error, Problem) else TOO_DEEP
            rejected.append(BadRow(record.path, record.line, record.number, *why))
    return Converted(rows, rejected, form)


def find_format(records: Sequence[Record], formats: Sequence[Format]) -> Format | None:
    """The format in which `convert` would read the records."""
    return _most_frequent(records, list(_detect(records, formats)), formats)


def _source(record: Record) -> str:
    return f"{record.path.name}:{record.line}"


def _detect(records: Sequence[Record], formats: Sequence[Format]) -> Iterator[Format | None]:
    """The first format that claims each row. Its names are compared once for rows of one shape."""
    shapes: dict[tuple[str, ...], list[Format]] = {}
    for record in records:
        row = record.value
        if not isinstance(row, dict):
            yield None
            continue
        shape = tuple(row)
        if shape not in shapes:
            shapes[shape] = [form for form in formats if form.marks <= row.keys()]
        yield next((form for form in shapes[shape] if form.claims(row)), None)


def _most_frequent(
    records: Sequence[Record], kinds: Sequence[Format | None], formats: Sequence[Format]
) -> Format | None:
    """The format of the data; where no row is complete, the one whose fields come closest."""
    if common := Counter(kind for kind in kinds if kind).most_common(1):
        return common[0][0]
    plain = [form for form in formats if form.kind in ("messages", "text")] or formats
    rows = (record.value for record in records if isinstance(record.value, dict))
    near = next((form for row in rows for form in plain if form.body in row), None)
    alone = len({form.name for form in formats}) == 1  # its owner named the format
    return near or (plain[0] if alone else None)


def _unknown_format(row: Any) -> Problem:
    if not isinstance(row, dict):
        return Problem(f"is {kind_of(row)}, not an object", 'write {"instruction": ..., ...}')
    known = dict.fromkeys(name for form in FORMATS for name in form.columns.values())
    near = {name: nearest(name, row) for name in known}
    fixes = [
        f"rename {short(found)} to {name!r}"
        for name, found in near.items()
        if found and found != name
    ][:3]
    lists = (k for k, v in row.items() if isinstance(v, list) and v and isinstance(v[0], dict))
    fixes += [
        f"save the list under {short(key)} as the file, if it holds the rows" for key in lists
    ]
    fix = " or ".join([*fixes, 'name the fields: columns={"prompt": ..., "response": ...}'])
    return Problem(f"no known format; found {short(list(row))}", fix)


def check_keys(given: Iterable[str], known: Iterable[str], place: str) -> None:
    """Raise DataError, with the nearest known key, where a key is not known."""
    known = list(known)
    for key in given:
        if key not in known:
            fix = f"write {nearest(str(key), known)!r}; known are {', '.join(known)}"
            raise DataError(f"{place}: unknown key {key!r}. Fix: {fix}.")


def choose(
    formatting: str | None,
    columns: Names | None,
    tags: Names | None,
    place: str,
    ranking: bool | None = None,
) -> list[Format]:
    """The formats that data may have, given what its owner says about it. Raises DataError.

    Columns that are named leave the others unnamed, as in LLaMA-Factory; tags keep their defaults.
    ranking: whether rows are preference pairs; None leaves it to the rows.
    """
    columns, tags = columns or {}, tags or {}
    check_keys([formatting] if formatting else [], dict.fromkeys(f.name for f in FORMATS), place)
    for given, known in ((columns, ROLES), (tags, TAGS)):
        if not isinstance(given, dict) or not all(isinstance(v, str) for v in given.values()):
            raise DataError(f"{place}: {given!r} does not map names. Fix: {{{known[0]!r}: '...'}}.")
        check_keys(given, known, place)
    turns = bool(tags) or "messages" in columns
    name = formatting or ("alpaca" if columns and not turns else None)
    found = [form for form in FORMATS if name in (None, form.name) and (form.tags or not turns)]
    if not found:
        raise DataError(f"{place}: {name} rows have no turns. Fix: write formatting sharegpt.")
    if tags:
        found = [replace(form, tags=form.tags | tags, given=tags) for form in found]
    if columns:
        _check_columns(columns, found[0], ranking, place)
        alone = {form.name: form for form in found}.values()
        found = [replace(form, columns=columns, named=True) for form in alone]
    elif ranking:
        found = [form for form in found if form.kind == "preference"]
    if not found:
        raise DataError(f"{place}: {name} rows are no preference pairs. Fix: remove ranking.")
    return found


def _check_columns(columns: Names, form: Format, ranking: bool | None, place: str) -> None:
    """What LLaMA-Factory takes and then loses every row with, or stops at a KeyError."""
    named = columns.keys() - {*OPTIONAL}
    answer = named & {"response", "chosen", "rejected"}
    fix = None
    if len(set(columns.values())) < len(columns):
        fix = "give each role a field of its own"
    elif form.tags and not named & {"messages", "chosen"}:
        fix = f'name the turns: "messages": "{form.body}"'
    elif "messages" in named and (
        named & {"prompt", "response"} or {*columns} & {"query", "history"}
    ):
        fix = "name the messages or the prompt and the response, not both"
    elif not named & {"messages", "prompt", "chosen"}:
        fix = 'name the prompt: "prompt": "..."'
    elif "prompt" in named and not answer and columns.keys() - MEDIA != {"prompt"}:
        fix = 'name the answers too: "response": "..." (a prompt alone is plain text)'
    elif (
        "rejected" in named
        and not named & {"messages", "response", "chosen"}
        or ("chosen" in named and "rejected" not in named)
    ):
        fix = 'name both answers: "chosen": "...", "rejected": "..."'
    elif ranking is not None and ranking != ("rejected" in named):
        fix = f'write "ranking": {str(not ranking).lower()}, or name other columns'
    if fix:
        raise DataError(f"{place}: the columns {columns} give no rows. Fix: {fix}.")


def explain(found: Converted, records: Sequence[Record]) -> str:
    """One line: the format, what gave it away, and what else the reader should know."""
    form, rows = found.form, found.rows
    if form is None:
        return "no known format"
    shown = ", ".join(repr(name) for name in form.columns.values() if name in form.marks)
    line = f"{form.title}: {'named' if form.named else 'found'} {shown}"
    if form.tags:
        line += f" with turns of {form.dialect.role!r} and {form.dialect.content!r}"
    if extra := dict.fromkeys(name for row in rows for name in row["extra"]):
        line += f"; not used: {', '.join(map(repr, list(extra)[:8]))}"
    if form.kind == "kto":
        values = (
            r.value.get(form.columns["kto_tag"]) for r in records if isinstance(r.value, dict)
        )
        odd = next((v for v in values if type(v) is not bool and truth(v) is not None), None)
        line += "" if odd is None else f"; labels such as {odd!r} are read as {truth(odd)}"
    return line
