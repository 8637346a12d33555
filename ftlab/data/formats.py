"""Rows as people write them -> conversations in TRL's format: `messages`, or `text`.

A format is one entry of `FORMATS`: what gives it away, the function that converts it, and which
field plays which role, in the words of LLaMA-Factory's dataset_info.json.
"""

import dataclasses
import difflib
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from reprlib import repr as short
from typing import Any

from ftlab.data.read import BadRow, Problem, Record
from ftlab.errors import DataError

Row = dict[str, Any]
Names = dict[str, str]


@dataclasses.dataclass(frozen=True, eq=False)
class Format:
    """How rows of one shape become conversations.

    marks: the roles whose fields give the format away; columns: role -> field of the row;
    tags: the same inside a turn (empty where rows hold no turns).
    """

    name: str
    convert: Callable[[Row, "Format"], Row]
    marks: tuple[str, ...]
    columns: Names
    tags: Names = dataclasses.field(default_factory=dict)

    def claims(self, row: Any) -> bool:
        """Whether the row looks like this format."""
        if not isinstance(row, dict):
            return False
        for mark in self.marks:  # a loop, because all() would double the time of reading
            if self.columns.get(mark, mark) not in row:
                return False
        turns = row[self.columns.get("messages", "messages")] if self.tags else None
        if isinstance(turns, list) and turns and isinstance(turns[0], dict):
            return self.tags["role_tag"] in turns[0]
        return True


def convert(records: Sequence[Record], formats: Sequence[Format]) -> tuple[list[Row], list[BadRow]]:
    """Conversations and rejected rows. The most frequent format of the data counts for all rows."""
    kinds = [next((f for f in formats if f.claims(record.value)), None) for record in records]
    common = Counter(kind for kind in kinds if kind).most_common(1)
    current = common[0][0] if common else formats[0] if len(formats) == 1 else None
    example = _source(records[kinds.index(current)]) if common else ""
    rows, rejected = [], []
    for record, kind in zip(records, kinds, strict=True):
        try:
            if isinstance(row := record.value, Problem):
                raise row
            if not isinstance(row, dict) or current is None:
                raise _unknown_format(row)
            if kind and kind is not current and not current.claims(row):
                reason = f"the row is {kind.name}, but {example} is {current.name}"
                raise Problem(reason, "keep one format in one dataset")
            converted, mapped = current.convert(row, current), current.columns.values()
            extra = {key: value for key, value in row.items() if key not in mapped}
            extra |= converted.pop("extra", {})
            rows.append({**converted, "source": _source(record), "extra": extra})
        except Problem as problem:
            rejected.append(BadRow(record.path, record.line, record.number, *problem.args))
    return rows, rejected


def _source(record: Record) -> str:
    return f"{record.path.name}:{record.line}"


def _unknown_format(row: Any) -> Problem:
    if not isinstance(row, dict):
        return Problem(f"is {_kind(row)}, not an object", 'write {"instruction": ..., ...}')
    near = {name: nearest(name, row) for form in FORMATS for name in form.columns.values()}
    renames = [f"rename {short(found)} to {name!r}" for name, found in near.items() if found]
    fix = 'name the fields: columns={"prompt": ..., "response": ...}'
    return Problem(f"no known format; found {short(list(row))}", " or ".join([*renames, fix]))


def _turns(row: Row, form: Format) -> Row:
    """ShareGPT and OpenAI: a system turn or none, then user and assistant by turns."""
    field, tags = form.columns["messages"], form.tags
    turns = _required(row, form, "messages")
    if not isinstance(turns, list) or not turns:
        reason = "is an empty list" if turns == [] else f"is {_kind(turns)}, not a list of turns"
        raise Problem(reason, "write a user turn and an assistant turn", field)
    roles = {tags[f"{role}_tag"]: role for role in ("user", "assistant", "system")}
    messages = _system(row, form)
    for number, turn in enumerate(turns, 1):
        try:
            role, content = roles[turn[tags["role_tag"]]], turn[tags["content_tag"]]
        except (KeyError, TypeError):
            raise _bad_turn(turn, f"turn {number}", field, tags, roles) from None
        last = messages[-1]["role"] if messages else None
        allowed = ["assistant"] if last == "user" else ["user"] if last else ["user", "system"]
        if role not in allowed:
            reason = f"turn {number} is from {role}, expected {' or '.join(allowed)}"
            raise Problem(reason, "let user and assistant take turns", field)
        if turn.get("tool_calls"):
            raise Problem(f"turn {number} calls tools", "ftlab reads text turns only", field)
        _check_text(content, field, f"turn {number} ", empty_ok=role == "system")
        messages.append({"role": role, "content": content})
    if messages[-1]["role"] != "assistant":
        raise Problem("the last turn is not an answer", "end with the assistant", field)
    more = any(len(turn) > 2 for turn in turns)  # such as a weight: kept, not lost
    return {"messages": messages, "extra": {field: turns} if more else {}}


def _bad_turn(turn: Any, name: str, field: str, tags: Names, roles: Names) -> Problem:
    if not isinstance(turn, dict):
        return Problem(f"{name} is {_kind(turn)}, not an object", "write role and text", field)
    for tag in ("role_tag", "content_tag"):
        if tags[tag] not in turn:
            reason = f'{name} has no "{tags[tag]}"; found {short(list(turn))}'
            return Problem(reason, f'add it or pass tags={{"{tag}": ...}}', field)
    role = short(turn[tags["role_tag"]])
    reason = f"{name} has the unknown role {role}; known are {', '.join(roles)}"
    return Problem(reason, f'rename it or pass tags={{"assistant_tag": {role}}}', field)


def _answer(row: Row, form: Format) -> Row:
    """Alpaca and pairs: system, history, prompt and query on a new line, response."""
    if set(form.columns) == {"prompt"}:  # how LLaMA-Factory's dataset_info.json writes plain text
        return _plain(row, form)
    field = form.columns["prompt"]
    instruction = _check_text(_required(row, form, "prompt"), field, empty_ok=True)
    prompt = "\n".join(filter(None, [instruction, _optional(row, form, "query")]))
    _check_text(prompt, field)
    response = _check_text(_required(row, form, "response"), form.columns["response"])
    messages = _system(row, form)
    for user, assistant in [*_history(row, form), (prompt, response)]:
        messages.append({"role": "user", "content": user})
        messages.append({"role": "assistant", "content": assistant})
    return {"messages": messages}


def _history(row: Row, form: Format) -> list[Any]:
    field = form.columns.get("history", "")
    pairs = row.get(field) or []
    for number, pair in enumerate(pairs if isinstance(pairs, list) else [pairs], 1):
        if not isinstance(pair, list) or len(pair) != 2:
            reason = f"pair {number} is {_kind(pair)}, not [question, answer]"
            raise Problem(reason, "write a list of pairs of texts", field)
        for text in pair:
            _check_text(text, field, f"pair {number} ")
    return pairs


def _plain(row: Row, form: Format) -> Row:
    return {"text": _check_text(_required(row, form, "prompt"), form.columns["prompt"])}


def _system(row: Row, form: Format) -> list[Names]:
    system = _optional(row, form, "system")
    return [{"role": "system", "content": system}] if system else []


def _optional(row: Row, form: Format, role: str) -> str:
    """The text of an optional field; missing and null count as empty."""
    field = form.columns.get(role, "")
    value = row.get(field)
    return "" if value is None else _check_text(value, field, empty_ok=True)


def _required(row: Row, form: Format, role: str) -> Any:
    field = form.columns.get(role, role)
    if field in row:
        return row[field]
    synonyms = {other.columns[role] for other in FORMATS if role in other.columns}
    found = nearest(field, row) or next((name for name in row if name in synonyms), None)
    fix = "add the field"
    if found:
        columns = {r: name for r, name in form.columns.items() if name in row} | {role: found}
        fix = f"rename {found!r} to {field!r} or pass columns={columns}"
    raise Problem(f"is missing; found {short(list(row))}", fix, field)


def _check_text(value: Any, field: str, where: str = "", empty_ok: bool = False) -> str:
    if not isinstance(value, str):
        fix = "write the text" if value is None else "write it as text, such as json.dumps(value)"
        raise Problem(f"{where}is {_kind(value)}, not text", fix, field)
    if "\0" in value:
        raise Problem(f"{where}holds a NUL character", "remove it", field)
    if not empty_ok and all(unicodedata.category(c) in _INVISIBLE for c in value):
        reason = "holds only blanks or invisible characters" if value else "is empty"
        raise Problem(f"{where}{reason}", "write the text or remove the row", field)
    return value


_INVISIBLE = {"Cc", "Cf", "Zl", "Zp", "Zs"}  # controls, zero-width characters, blanks


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    names = {dict: "an object", list: "a list", str: "text", bool: "a boolean"}
    return f"{names.get(type(value), 'a number')} ({short(value)})"


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known name that is most like the word, in any case and with any blanks around it."""
    folded = {name.strip().lower(): name for name in known}
    match = difflib.get_close_matches(word.strip().lower(), folded, n=1)
    return folded[match[0]] if match else None


def check_keys(given: Iterable[str], known: Sequence[str], place: str) -> None:
    """Raise DataError, with the nearest known key, where a key is not known."""
    for key in given:
        if key in _UNREAD:
            raise DataError(f"{place}: ftlab does not read {key!r}. Fix: {_UNREAD[key]}.")
        if key not in known:
            fix = f"write {nearest(str(key), known)!r}; known are {', '.join(known)}"
            raise DataError(f"{place}: unknown key {key!r}. Fix: {fix}.")


def choose(
    formatting: str | None, columns: Names | None, tags: Names | None, place: str
) -> list[Format]:
    """The formats that data may have, given what its owner says about it. Raises DataError.

    Columns that are named leave the others unnamed, as in LLaMA-Factory; tags keep their defaults.
    """
    columns, tags = columns or {}, tags or {}
    check_keys([formatting] if formatting else [], ("alpaca", "sharegpt", "openai"), place)
    for given, known in ((columns, _COLUMNS), (tags, _TAGS)):
        if not isinstance(given, dict) or not all(isinstance(v, str) for v in given.values()):
            raise DataError(f"{place}: {given!r} does not map names. Fix: {{{known[0]!r}: '...'}}.")
        check_keys(given, known, place)
    name = formatting or ("alpaca" if columns and "messages" not in columns else None)
    found = [form for form in FORMATS if name in (None, form.name)]
    if tags or "messages" in columns:
        found = [dataclasses.replace(f, tags=f.tags | tags) for f in found if f.tags]
    if columns:
        alone = {f.name: f for f in found}.values()
        found = [dataclasses.replace(form, columns=columns) for form in alone]
    if not found:
        raise DataError(f"{place}: alpaca rows have no turns. Fix: write formatting sharegpt.")
    return found


_ROLES = ("role_tag", "content_tag", "user_tag", "assistant_tag", "system_tag")
_OPENAI = dict(zip(_ROLES, ("role", "content", "user", "assistant", "system"), strict=True))
_SHAREGPT = dict(zip(_ROLES, ("from", "value", "human", "gpt", "system"), strict=True))
_FIELDS = ("prompt", "query", "response", "system", "history")
_ALPACA = ("instruction", "input", "output", "system", "history")

# What a row may be; the first format that claims it gets it.
FORMATS = (
    *(
        Format(name, _turns, ("messages",), {"messages": column, "system": "system"}, tags)
        for column in ("messages", "conversations")
        for name, tags in (("openai", _OPENAI), ("sharegpt", _SHAREGPT))
    ),
    Format("alpaca", _answer, ("prompt",), dict(zip(_FIELDS, _ALPACA, strict=True))),
    *(
        Format(f"{p}/{r}", _answer, ("prompt", "response"), {"prompt": p, "response": r})
        for p, r in (("prompt", "response"), ("prompt", "completion"), ("question", "answer"))
    ),
    Format("text", _plain, ("prompt",), {"prompt": "text"}),
)
# The keys of LLaMA-Factory that ftlab reads, and those for data that it has no format for.
_COLUMNS = (*_FIELDS, "messages")
_TAGS = (*_ROLES, "observation_tag", "function_tag")
_HUB = ("hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name", "subset")
_LATER = ("ranking", "tools", "images", "videos", "audios", "chosen", "rejected", "kto_tag")
_UNREAD = dict.fromkeys(
    (*_HUB, "split", "folder"), 'ftlab reads local files: download it and name it as "file_name"'
)
_UNREAD |= dict.fromkeys(_LATER, "choose data of instructions, conversations or text")
