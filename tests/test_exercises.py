"""The exercise engine, and every exercise with its solution and with typical mistakes."""

import json
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import FunctionType, SimpleNamespace
from typing import Any

import pytest

from ftlab import exercises as package
from ftlab.exercises import Result, check, exercise, expect, filled, hint, solution
from ftlab.exercises.engine import _is_blank, judge, shown

ALL = package.exercises()
HERE = Path(__file__).parent
NOTEBOOKS = sorted((HERE.parent / "notebooks").glob("*.ipynb"))


# From every table tests/exercises/test_nXX.py: name -> [(answer, outcome, part of the message)].
MISTAKES: dict[str, list[tuple[str, str, str]]] = {}
EXTRA: dict[str, Callable[[], tuple[Any, ...]]] = {}
for path in sorted((HERE / "exercises").glob("test_n*.py")):
    table = runpy.run_path(str(path))
    MISTAKES |= table["MISTAKES"]
    EXTRA |= table.get("EXTRA", {})


def answered(name, code):
    """The result of the check for an answer given as code, run as in a cell."""
    cell: dict[str, Any] = {}
    exec(compile(code, "<cell>", "exec"), cell)
    return getattr(check, name)(cell[name], *EXTRA.get(name, tuple)())


@pytest.fixture
def double():
    """A small exercise outside the registry."""

    def double(answer):
        """Twice the number."""
        for x in (0, 3, -2):
            expect(answer(x) == 2 * x, "the result is twice the input")

    return package.Exercise("double", "99", "start", double, ("a", "b", "c"), "", "2 x is x + x.")


# --- every exercise -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_the_solution_passes_its_own_check(name):
    result = answered(name, solution(name).code)
    assert (result.outcome, result.message) == ("passed", ALL[name].why)


@pytest.mark.parametrize(
    ("name", "code", "outcome", "message"),
    [(name, *mistake) for name, mistakes in MISTAKES.items() for mistake in mistakes],
)
def test_a_typical_mistake_is_named(name, code, outcome, message):
    result = answered(name, code)
    assert result.outcome == outcome, result
    assert message in result.message


@pytest.mark.parametrize("name", ALL)
def test_an_exercise_has_three_mistakes_three_hints_and_a_reason(name):
    assert len(MISTAKES.get(name, ())) >= 3
    assert len({*ALL[name].hints}) == 3
    assert all(ALL[name].hints) and ALL[name].why
    assert "\n" not in ALL[name].why
    assert ALL[name].check.__doc__


@pytest.mark.parametrize("name", ALL)
def test_blank_answers_are_not_attempted(name):
    blank = answered(name, f"def {name}(*args):\n    '''To do.'''\n    ...")
    assert blank.outcome == getattr(check, name)(...).outcome == "not attempted"


@pytest.mark.parametrize("notebook", sorted({e.notebook for e in ALL.values()}))
def test_a_notebook_has_the_three_levels_in_order(notebook):
    levels = [e.level for e in ALL.values() if e.notebook == notebook]
    assert levels == ["start", "build", "explore"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_solutions_fit_into_the_exercise_cells(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    sources = ["".join(c["source"]) for c in cells if "exercise" in c["metadata"].get("tags", ())]
    for source in sources:
        code = filled(source)
        name = source.split("ftlab.check.")[1].split("(")[0]
        assert ALL[name].notebook == path.stem[:2]
        assert f"ftlab.check.{name}({name}" in code
        compile(code, "<cell>", "exec")
    known = [e for e in ALL.values() if e.notebook == path.stem[:2]]
    assert len(sources) == len(known)


# --- the engine -----------------------------------------------------------------------------


def test_a_right_answer_passes_and_says_why(double):
    assert repr(judge(double, lambda x: x + x)) == "passed · double: 2 x is x + x."


def test_a_wrong_answer_names_the_property_and_the_first_failing_case(double):
    def square(x):
        return x * x

    result = judge(double, square)
    assert result.outcome == "wrong"
    assert result.message == (
        "expected: the result is twice the input. Case: `square(3)` -> yours: `9`."
    )


def test_a_learners_exception_is_told_with_its_input_and_line(double):
    def broken(x):
        return x.missing

    result = judge(double, broken)
    assert result.outcome == "error"
    assert "`broken(0)` raised AttributeError: 'int' object has no attribute" in result.message
    assert f"(line {broken.__code__.co_firstlineno + 1} of your cell)" in result.message


def test_a_function_without_return_is_told_so(double):
    def forgets(x):
        x * 2

    assert "is a `return` missing?" in judge(double, forgets).message


def stub(x): ...


def stub_with_docstring(x):
    """Twice."""


def stub_with_pass(x):
    pass


def stub_that_returns_dots(x):
    return ...


def closure():
    kept = 1

    def stub_in_a_cell(x):
        """Still blank."""
        ...

    return stub_in_a_cell, kept


BLANKS = [..., None, stub, stub_with_docstring, stub_with_pass, stub_that_returns_dots]


@pytest.mark.parametrize("blank", [*BLANKS, closure()[0], [1, ...], {"a": 1, "b": ...}])
def test_blanks_are_not_attempted(double, blank):
    assert judge(double, blank).outcome == "not attempted"
    assert judge(double).outcome == "not attempted"


def test_not_implemented_counts_as_not_attempted(double):
    def later(x):
        raise NotImplementedError

    assert judge(double, later).outcome == "not attempted"


@pytest.mark.parametrize(
    "answer",
    [lambda x: 2, lambda x: x, 0, "", [], False, [None]],
    ids=["constant", "identity", "zero", "no text", "empty list", "false", "list of none"],
)
def test_attempts_are_not_taken_for_blanks(answer):
    assert not _is_blank(answer)


def test_an_answer_of_the_wrong_kind_is_an_error_not_an_exception(double):
    result = judge(double, 7)
    assert result.outcome == "error"
    assert "'int' object is not callable" in result.message


def test_a_learner_cannot_change_the_lists_of_the_check():
    ids = [1, 2, 3]

    def last(answer):
        expect(answer(ids) == 3, "the last one")

    item = package.Exercise("last", "99", "start", last, ("a", "b", "c"), "", "")
    assert judge(item, lambda ids: ids.pop()).outcome == "passed"
    assert judge(item, lambda ids: ids.pop()).outcome == "passed"


def test_an_unknown_name_gets_the_nearest_one():
    nearest = next(iter(ALL))
    for result in (getattr(check, nearest + "s")(1), hint(nearest + "s"), solution(nearest + "s")):
        assert result.outcome == "error"
        assert f"Nearest: `{nearest}`" in result.message
    assert hint(None).outcome == solution(3).outcome == "error"  # type: ignore[arg-type]


def test_hints_grow_and_point_to_the_next_step():
    name = next(iter(ALL))
    assert f'`ftlab.hint("{name}", 2)`' in hint(name).message
    assert f'`ftlab.solution("{name}")`' in hint(name, 3).message
    assert hint(name, 4).outcome == hint(name, "2").outcome == "error"  # type: ignore[arg-type]


def test_html_is_escaped():
    result = Result("wrong", "a", "yours: `<script>`", code="1 < 2")
    page = result._repr_html_()
    assert "<script>" not in page
    assert "<code>&lt;script&gt;</code>" in page
    assert "1 &lt; 2" in page


def test_shown_is_short_and_tells_shapes():
    assert shown("x" * 200).endswith(" ...")
    assert len(shown("x" * 200)) <= 80
    assert shown(1 / 3) == "0.333333"
    tensor = SimpleNamespace(shape=(2, 3), tolist=lambda: [[0] * 3] * 2)
    assert shown(tensor) == "tensor of shape (2, 3)"
    assert shown(SimpleNamespace(shape=(2,), tolist=lambda: [1.5, 2])) == (
        "tensor of shape (2,) [1.5, 2]"
    )
    assert shown(SimpleNamespace(shape=(), tolist=lambda: 2.5)) == "2.5"


def test_two_exercises_of_one_name_are_refused():
    name = next(iter(ALL))
    with pytest.raises(ValueError, match="two exercises are called"):
        exercise("start", hints=("a", "b", "c"), solution="", why="")(
            FunctionType(judge.__code__, {"__name__": "elsewhere"}, name)
        )


def test_filled_replaces_all_before_the_check_call():
    name = next(iter(ALL))
    cell = f"def {name}(a):\n    ...\n\n\nftlab.check.{name}({name})"
    assert filled(cell) == f"{solution(name).code}\n\n\nftlab.check.{name}({name})"
    with pytest.raises(ValueError, match="no ftlab.check call"):
        filled("print(1)")


def test_exercises_import_without_torch():
    code = "import sys, ftlab.exercises as e; e.exercises(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_parameter_count_is_that_of_transformers():
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from ftlab.exercises.n06_pretraining import _SHAPE, _reference_count

    for tied in (True, False):
        shape = _SHAPE | {"tie_word_embeddings": tied}
        with torch.device("meta"):
            model = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**shape))
        assert model.num_parameters() == _reference_count(shape)
