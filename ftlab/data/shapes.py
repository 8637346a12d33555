"""The table of formats: which field of a row plays which role, in LLaMA-Factory's words."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from ftlab.data.turns import WORDS, Dialect, Names

Row = dict[str, Any]
OPENAI = {
    "role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant",
    "observation_tag": "tool", "function_tag": "tool_call", "system_tag": "system",
}  # fmt: skip
SWIFT = OPENAI | {"observation_tag": "tool_response"}
SHAREGPT = {
    "role_tag": "from", "content_tag": "value", "user_tag": "human", "assistant_tag": "gpt",
    "observation_tag": "observation", "function_tag": "function_call", "system_tag": "system",
}  # fmt: skip
TAGS = tuple(OPENAI)
ROLE_OF_TAG = dict(zip(TAGS[2:], ("user", "assistant", "tool", "call", "system"), strict=True))
MEDIA = ("images", "videos", "audios")
OPTIONAL = ("query", "system", "history", "tools", *MEDIA)
ROLES = ("prompt", "response", "messages", "chosen", "rejected", "kto_tag", *OPTIONAL)


@dataclass(frozen=True, eq=False)
class Format:
    """How rows of one shape become conversations.

    columns: role -> field of the row; tags: the same inside a turn, and what its roles are called
    (empty where rows hold texts, not turns); named, given: that the owner of the data named these
    columns, and the tags that he gave.
    """

    name: str
    columns: Names
    tags: Names = field(default_factory=dict)
    given: Names = field(default_factory=dict)
    named: bool = False

    @cached_property
    def kind(self) -> str:
        """What its rows become: "messages", "preference", "kto" or "text"."""
        if "rejected" in self.columns:
            return "preference"
        if "kto_tag" in self.columns:
            return "kto"
        return "text" if self.columns.keys() - MEDIA == {"prompt"} else "messages"

    @cached_property
    def title(self) -> str:
        """Its name, and its kind where the name leaves it open."""
        words = {"preference": f"{self.name} preference", "kto": f"{self.name} KTO"}
        return words.get(self.kind, "text" if self.kind == "text" else self.name)

    @cached_property
    def body(self) -> str:
        """The field that holds what is said before the answer."""
        role = next(role for role in ("messages", "prompt", "chosen") if role in self.columns)
        return self.columns[role]

    @cached_property
    def marks(self) -> frozenset[str]:
        """The fields that give the format away."""
        return frozenset(name for role, name in self.columns.items() if role not in OPTIONAL)

    @cached_property
    def media(self) -> tuple[str, ...]:
        """Fields that may name pictures or sound: those that the owner named, or the usual ones."""
        named = tuple(self.columns[role] for role in MEDIA if role in self.columns)
        return named if self.named else (*MEDIA, "image", "video", "audio")

    @cached_property
    def dialect(self) -> Dialect:
        """Its turns: their two keys and the words for roles. A role that was named has one word."""
        tags = self.tags or OPENAI
        named = {self.given[tag]: role for tag, role in ROLE_OF_TAG.items() if tag in self.given}
        others = {word: role for word, role in WORDS.items() if role not in named.values()}
        return Dialect(tags["role_tag"], tags["content_tag"], others | named)

    def claims(self, row: Row) -> bool:
        """Whether the values of a row with these marks look like this format."""
        if self.columns.get("kto_tag") == "label" and truth(row["label"]) is None:
            return False
        turns = row[self.body] if self.tags else None
        if isinstance(turns, str):  # a cell of a CSV file; answers alone are texts, not turns
            implicit = self.body == self.columns.get("chosen")
            return not implicit and f'"{self.tags["role_tag"]}"' in turns
        if isinstance(turns, list) and turns and isinstance(turns[0], dict):
            return self.tags["role_tag"] in turns[0]
        return True


def truth(value: Any) -> bool | None:
    """A label, also as 1 and 0 or in words: CSV has no others, and other tools write them."""
    if isinstance(value, str):
        return {"true": True, "1": True, "false": False, "0": False}.get(value.strip().lower())
    return bool(value) if isinstance(value, bool | int | float) and value in (0, 1) else None


_TOOLS = {"tools": "tools"}
_ASIDE = {"system": "system"} | _TOOLS
_PAIR = _ASIDE | {"history": "history"}
_ALPACA = _PAIR | {"prompt": "instruction", "query": "input"}
_QUERY = Format("query/response", _PAIR | {"prompt": "query", "response": "response"})
_PAIRS = [
    Format("alpaca", _ALPACA | {"response": "output"}),
    *(
        Format(f"{prompt}/{response}", _PAIR | {"prompt": prompt, "response": response})
        for prompt in ("prompt", "question")
        for response in ("completion", "response", "answer")
    ),
    Format("instruction/response", _ALPACA | {"response": "response"}),
    _QUERY,
    Format("input/output", _PAIR | {"prompt": "input", "response": "output"}),
]
_TURNS = [  # what is first of its name is what `Data.save` writes
    Format(name, {"messages": column} | _ASIDE, tags)
    for name, tags, columns in (
        ("openai", OPENAI, ("messages", "conversations", "conversation")),
        ("sharegpt", SHAREGPT, ("conversations", "messages", "conversation")),
    )
    for column in columns
]
_SWIFT = Format("swift", {"messages": "messages"} | _ASIDE, SWIFT)
_ANSWERS = {"chosen": "chosen", "rejected": "rejected"}


def _with(form: Format, **columns: str) -> Format:
    """The format with answers in other fields; those that are chosen replace the response."""
    kept = {r: n for r, n in form.columns.items() if r != "response" or "chosen" not in columns}
    return replace(form, columns=kept | columns)


# What a row may be; the first format that claims it gets it.
FORMATS = (
    *(_with(form, **_ANSWERS) for form in _PAIRS),
    *(_with(form, rejected="rejected_response") for form in (_SWIFT, _QUERY)),
    Format("swift", {"chosen": "messages", "rejected": "rejected_messages"} | _TOOLS, SWIFT),
    *(_with(form, **_ANSWERS) for form in _TURNS),
    *(Format(n, _ANSWERS | _TOOLS, t) for n, t in (("openai", OPENAI), ("sharegpt", SHAREGPT))),
    *(_with(f, kto_tag=tag) for f in (*_TURNS, _SWIFT, *_PAIRS) for tag in ("label", "kto_tag")),
    *_TURNS,
    *_PAIRS,
    _SWIFT,
    Format("text", {"prompt": "text"}),
)
