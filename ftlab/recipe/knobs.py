"""One parameter of a recipe: its default, limits and help; values checked against them."""

from __future__ import annotations

from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from ftlab.errors import RecipeError


@dataclass(frozen=True)
class Knob:
    """What a form needs to know about one parameter.

    ``low`` and ``high`` bound the value; ``slider`` is the narrower range that a panel offers.
    """

    name: str
    kind: str
    default: Any
    help: str
    group: str
    low: float | None = None
    high: float | None = None
    scale: str = "linear"
    choices: tuple[str, ...] | None = None
    slider: tuple[float, float] | None = None


def knob(default: Any, help: str, group: str, **limits: Any) -> Any:
    """A dataclass field that carries its help and limits."""
    return field(default=default, metadata={"help": help, "group": group, **limits})


def convert(item: Knob, value: Any) -> Any:
    """``value`` as the knob's type, checked against its limits; RecipeError otherwise."""
    if value is None:
        if "None" in item.kind:
            return None
        raise RecipeError(f"{item.name}: needs a value, found none. Default: {item.default!r}.")
    value = _typed(item, value)
    if item.choices and value not in item.choices:
        near = get_close_matches(str(value), item.choices, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise RecipeError(f"{item.name}={value!r}: choose one of {', '.join(item.choices)}.{hint}")
    if isinstance(value, int | float) and not isinstance(value, bool):
        low, high = item.low, item.high
        if (
            value != value
            or (low is not None and value < low)
            or (high is not None and value > high)
        ):
            bounds = f">= {low}" if high is None else f"between {low} and {high}"
            raise RecipeError(f"{item.name}={value!r} is out of range: it must be {bounds}.")
    return value


def _typed(item: Knob, value: Any) -> Any:
    wrong = RecipeError(
        f"{item.name}={value!r}: expected {_KIND_WORDS[_kind(item)]}, found {type(value).__name__}."
    )
    kind = _kind(item)
    if isinstance(value, (dict, bool)) and type(value).__name__ in item.kind:
        return value
    if kind == "bool":
        words = {"true": True, "false": False}
        value = words.get(value.lower(), value) if isinstance(value, str) else value
        if not isinstance(value, bool):
            raise wrong
        return value
    if kind == "str":
        if isinstance(value, list | tuple):
            return ",".join(map(str, value))
        if value is False and "no" in (item.choices or ()):
            return "no"  # YAML 1.1 reads the word so
        if not isinstance(value, str):
            raise wrong
        return value
    try:
        # YAML 1.1 reads 1e-4 as a string: numbers may come as text.
        number = float(value) if not isinstance(value, bool) else None
    except (TypeError, ValueError):
        number = None
    if number is None or (kind == "int" and number != int(number)):
        raise wrong
    return int(number) if kind == "int" else number


_KIND_WORDS = {"str": "text", "bool": "true or false", "int": "a whole number", "float": "a number"}


def _kind(item: Knob) -> str:
    return next(kind for kind in _KIND_WORDS if kind in item.kind)
