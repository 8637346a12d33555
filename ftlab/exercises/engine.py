"""The machinery behind `ftlab.check`, `ftlab.hint` and `ftlab.solution`; no torch at import."""

from __future__ import annotations

import copy
import difflib
import dis
import functools
import html
import importlib
import pkgutil
import re
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType
from typing import Any, Literal

Level = Literal["start", "build", "explore"]
Outcome = Literal["passed", "wrong", "not attempted", "error", "hint", "solution"]

# Okabe-Ito, so that no outcome depends on telling red from green; the label says it in words.
COLORS: dict[str, str] = {
    "passed": "#009E73",
    "wrong": "#D55E00",
    "not attempted": "#888888",
    "error": "#CC79A7",
    "hint": "#0072B2",
    "solution": "#0072B2",
}


@dataclass(frozen=True, repr=False)
class Result:
    """What a check, a hint or a solution answers: `outcome`, `message` and, if any, `code`."""

    outcome: Outcome
    name: str
    message: str
    code: str = ""

    def __repr__(self) -> str:
        text = f"{self.outcome} · {self.name}: {self.message}"
        return f"{self.code}\n\n{text}" if self.code else text

    def _repr_html_(self) -> str:
        message = re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(self.message))
        code = f"<pre>{html.escape(self.code)}</pre>" if self.code else ""
        color = COLORS[self.outcome]
        return (
            f'<div style="border-left: 4px solid {color}; padding: 2px 10px;">'
            f'<b style="color: {color};">{self.outcome}</b> · '
            f"<code>{html.escape(self.name)}</code>: {message}{code}</div>"
        )


@dataclass(frozen=True)
class Exercise:
    """One exercise; `check` raises through `expect` when the answer lacks a property."""

    name: str
    notebook: str
    level: Level
    check: Callable[..., None]
    hints: tuple[str, str, str]
    solution: str
    why: str


class Wrong(Exception):
    """A property of the answer that does not hold."""


class NotAttempted(Exception):
    """The answer is still a blank."""


class Raised(Exception):
    """The learner's function raised the exception that is this one's cause."""


_registry: dict[str, Exercise] = {}


def exercise(
    level: Level, *, hints: tuple[str, str, str], solution: str, why: str
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register the decorated check under its own name (see the docstring of the package)."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        name, module = function.__name__, function.__module__
        known = _registry.get(name)
        if known is not None and known.check.__module__ != module:
            raise ValueError(f"two exercises are called {name!r}: rename the one in {module}")
        notebook = module.rpartition(".")[2][1:3]
        code = solution.strip("\n")
        _registry[name] = Exercise(name, notebook, level, function, hints, code, why)
        return function

    return register


@functools.cache
def _import_all() -> None:
    package = importlib.import_module("ftlab.exercises")
    for module in pkgutil.iter_modules(package.__path__):
        if re.fullmatch(r"n\d\d_\w+", module.name):
            importlib.import_module(f"ftlab.exercises.{module.name}")


def exercises() -> dict[str, Exercise]:
    """Every exercise by name, in the order of the notebooks."""
    _import_all()
    return dict(sorted(_registry.items(), key=lambda item: item[1].notebook))


def expect(condition: Any, wanted: str, *, given: Any = None, yours: Any = None) -> None:
    """Go on if `condition` holds; else the answer is wrong because `wanted` is not the case.

    `given` and `yours` replace the input and the result of the watched function's last call.
    """
    if not bool(condition):
        case = f" Input: {shown(given)}." if given is not None else ""
        case += f" Yours: {shown(yours)}." if yours is not None else ""
        raise Wrong(wanted, case)


def shown(value: Any, width: int = 80) -> str:
    """A value in one short line; tensors and arrays with their shape."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if hasattr(value, "shape") and hasattr(value, "tolist"):
        shape = tuple(value.shape)
        numbers = value.tolist() if len(shape) < 2 else None
        text = f"tensor of shape {shape}" if shape else shown(numbers)
        if isinstance(numbers, list) and len(numbers) <= 8:
            text += " [" + ", ".join(shown(number) for number in numbers) + "]"
        return text
    text = " ".join(repr(value).split())
    return text if len(text) <= width else text[: width - 4] + " ..."


class Watched:
    """The learner's function; it remembers its last call and cannot change the check's lists."""

    def __init__(self, function: FunctionType) -> None:
        self.function = function
        self.call = self.result = ""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        given = [shown(arg) for arg in args]
        given += [f"{key}={shown(value)}" for key, value in kwargs.items()]
        self.call, self.result = f"{self.function.__name__}({', '.join(given)})", ""
        try:
            result = self.function(*map(_own, args), **{k: _own(v) for k, v in kwargs.items()})
        except NotImplementedError:
            raise NotAttempted from None
        except Exception as error:
            raise Raised from error
        if result is Ellipsis:
            raise NotAttempted
        if result is None:
            raise Wrong("a result, but the function returns None (is a `return` missing?)", "")
        self.result = shown(result)
        return result

    def case(self) -> str:
        """The last call and what came of it, for a message."""
        if not self.call:
            return ""
        return f" Case: `{self.call}`" + (f" -> yours: `{self.result}`." if self.result else ".")


def _own(value: Any) -> Any:
    return copy.deepcopy(value) if isinstance(value, (list, dict)) else value


def _is_blank(answer: Any) -> bool:
    if answer is None or answer is Ellipsis:
        return True
    if isinstance(answer, dict):
        return any(_is_blank(value) for value in answer.values())
    if isinstance(answer, (list, tuple)):
        return any(value is Ellipsis for value in answer)
    return isinstance(answer, FunctionType) and _is_stub(answer)


# What a body of only `...`, `pass`, a docstring or `return ...` compiles to, Python 3.10 to 3.14.
_STUB_OPERATIONS = {"RESUME", "NOP", "POP_TOP", "LOAD_CONST", "RETURN_VALUE", "RETURN_CONST"}


def _is_stub(function: FunctionType) -> bool:
    return all(
        step.opname in _STUB_OPERATIONS
        and (not step.opname.endswith("_CONST") or step.argval in (None, Ellipsis))
        for step in dis.get_instructions(function)
    )


def _told(error: BaseException) -> str:
    first_line = (str(error).splitlines() or [""])[0][:160].rstrip(".")
    return f"{type(error).__name__}: {first_line}" if first_line else type(error).__name__


def _where(error: BaseException, function: FunctionType) -> str:
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == function.__code__.co_filename
    ]
    return f" (line {lines[-1]} of your cell)" if lines else ""


def judge(exercise: Exercise, answer: Any = ..., *extra: Any, **named: Any) -> Result:
    """Run one check on an answer; whatever happens, the result says it."""
    result = functools.partial(Result, name=exercise.name)
    blank = f'still blank. Stuck? `ftlab.hint("{exercise.name}")`'
    if _is_blank(answer):
        return result(outcome="not attempted", message=blank)
    watched = Watched(answer) if isinstance(answer, FunctionType) else None
    try:
        exercise.check(watched or answer, *extra, **named)
    except NotAttempted:
        return result(outcome="not attempted", message=blank)
    except Wrong as wrong:
        wanted, case = wrong.args
        case = case or (watched.case() if watched else f" Yours: `{shown(answer)}`.")
        return result(outcome="wrong", message=f"expected: {wanted}.{case}")
    except Raised as raised:
        assert watched is not None and raised.__cause__ is not None
        error = raised.__cause__
        text = f"`{watched.call}` raised {_told(error)}"
        return result(outcome="error", message=text + _where(error, watched.function) + ".")
    except Exception as error:  # a check never raises in a notebook
        text = f"the check cannot use this answer: {_told(error)}."
        case = watched.case() if watched else f" Yours: `{shown(answer)}`."
        return result(outcome="error", message=text + case)
    return result(outcome="passed", message=exercise.why)


def _unknown(name: Any) -> Result:
    near = difflib.get_close_matches(str(name), exercises(), n=1, cutoff=0.0)
    message = "there is no exercise of this name."
    return Result("error", str(name), message + (f" Nearest: `{near[0]}`." if near else ""))


class Check:
    """`check.NAME(answer)` for every exercise; `dir(check)` lists the names."""

    def __getattr__(self, name: str) -> Callable[..., Result]:
        if name.startswith("_"):  # IPython and copy probe such names on every object
            raise AttributeError(name)
        known = exercises().get(name)
        if known is None:
            return lambda *args, **kwargs: _unknown(name)
        checker = functools.partial(judge, known)
        checker.__doc__ = known.check.__doc__
        return checker

    def __dir__(self) -> list[str]:
        return list(exercises())

    def __repr__(self) -> str:
        lines = [f"{e.notebook} {e.level:8} check.{e.name}" for e in exercises().values()]
        return "\n".join(lines)


check = Check()


def hint(name: str, level: int = 1) -> Result:
    """The hint of the given strength, 1 (a nudge) to 3 (almost the code)."""
    known = exercises().get(name) if isinstance(name, str) else None
    if known is None:
        return _unknown(name)
    if level not in (1, 2, 3):
        return Result("error", name, f"hints have level 1, 2 or 3, not {shown(level)}.")
    more = f'`ftlab.hint("{name}", {level + 1})`' if level < 3 else f'`ftlab.solution("{name}")`'
    return Result("hint", name, f"{known.hints[level - 1]} More: {more}")


def solution(name: str) -> Result:
    """The solution: its `code`, and in `message` one line why it is so."""
    known = exercises().get(name) if isinstance(name, str) else None
    if known is None:
        return _unknown(name)
    return Result("solution", name, known.why, known.solution)


def filled(source: str) -> str:
    """The source of an `exercise` cell with the solution in place of the learner's part.

    Raises ValueError if the cell has no `ftlab.check.NAME(` call of a known exercise.
    """
    match = re.search(r"^.*\bftlab\.check\.(\w+)\(", source, flags=re.MULTILINE)
    if match is None or match[1] not in exercises():
        raise ValueError(f"no ftlab.check call of a known exercise in: {source!r}")
    return f"{exercises()[match[1]].solution}\n\n\n{source[match.start() :]}"
