"""Exercises: `ftlab.check.NAME(answer)`, `ftlab.hint("NAME")`, `ftlab.solution("NAME")`.

A check never raises. Its outcome is "passed", "wrong", "not attempted" or "error"; its message
names the property that failed and the first case that shows it, never the answer.

To add the exercises of a notebook, write `nNN_name.py` beside this file; it is found by its name:

    @exercise("start", hints=("...", "...", "..."), solution="def double(x): ...", why="...")
    def double(answer):                          # the exercise has the name of its check
        '''Twice the number.'''
        for x in (0, 3, -2):
            expect(answer(x) == 2 * x, "the result is twice the input")

Rules: the level is start, build or explore. The solution is code that runs in an empty namespace
and defines the exercise's name. The module imports no torch at its top. `answer` may be any
object; a function is watched, so that a message shows its last input and result by itself, and a
function that raises or returns None is reported without help from the check. `...`, or a list or
dict that holds one, counts as a blank.
In the notebook the cell has the tag `exercise` and ends with `ftlab.check.NAME(NAME)`;
`filled(source)` puts the solution in place of everything before that call. The tests want three
typical mistakes for each exercise: see `tests/exercises/test_n06.py`.
"""

from ftlab.exercises.engine import (
    Exercise,
    Result,
    check,
    exercise,
    exercises,
    expect,
    filled,
    hint,
    solution,
)

__all__ = [
    "Exercise",
    "Result",
    "check",
    "exercise",
    "exercises",
    "expect",
    "filled",
    "hint",
    "solution",
]
