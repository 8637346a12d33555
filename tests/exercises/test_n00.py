"""Typical mistakes in the exercises of notebook 00: (answer, outcome, part of the message).

See `tests/exercises/test_n06.py` for the form. `ACCEPTED` holds right answers that look different
from the solution.
"""

import pytest

from ftlab import check

ACCEPTED = {
    "probability": "def probability(loss): return 2.718281828459045 ** -loss",
    "one_step": """
def one_step(weights, gradients, learning_rate):
    for i, gradient in enumerate(gradients):
        weights[i] -= learning_rate * gradient
    return tuple(weights)
""",
    "diagnose": """
from statistics import median
def diagnose(losses):
    tenth = max(1, len(losses) // 10)
    start, end = losses[0], median(losses[-tenth:])
    middle = [median(losses[i : i + tenth]) for i in range(0, len(losses), tenth)]
    if not max(losses) < float("inf") or any(x != x for x in losses):
        return "too high"
    if end > 1.2 * start or end > 3 * min(middle):
        return "too high"
    return "good" if end < start / 2 else "too low"
""",
}

MISTAKES = {
    "probability": [
        ("def probability(loss): return 1 - loss", "wrong", "above 0 and below 1"),
        (
            "import math\ndef probability(loss): return math.exp(loss)",
            "wrong",
            "a higher loss is a lower probability",
        ),
        ("def probability(loss): return 2**-loss", "wrong", "one half for a loss of ln 2"),
        ("def probability(loss): return 1 / (1 + loss)", "wrong", "one half for a loss of ln 2"),
        (
            "import math\ndef probability(loss): return -math.log(loss)",
            "error",
            "probability(0)` raised ValueError",
        ),
        (
            "import math\ndef probability(loss): math.exp(-loss)",
            "wrong",
            "is a `return` missing?",
        ),
    ],
    "one_step": [
        (  # with the gradient instead of against it
            "def one_step(w, g, lr): return [a + lr * b for a, b in zip(w, g)]",
            "wrong",
            "a step against the gradient",
        ),
        (  # forgets the learning rate
            "def one_step(w, g, lr): return [a - b for a, b in zip(w, g)]",
            "wrong",
            "a learning rate of 0 moves nothing",
        ),
        (  # scales the weight
            "def one_step(w, g, lr): return [a * (1 - lr) for a, b in zip(w, g)]",
            "wrong",
            "a weight with a gradient of 0 stays",
        ),
        (  # only the sign of the gradient
            """
def one_step(w, g, lr):
    return [a - lr * ((b > 0) - (b < 0)) for a, b in zip(w, g)]
""",
            "wrong",
            "three times the gradient",
        ),
        (  # the step alone
            "def one_step(w, g, lr): return [-lr * b for b in g]",
            "wrong",
            "a learning rate of 0 moves nothing",
        ),
        (  # lists are no vectors
            "def one_step(w, g, lr): return w - lr * g",
            "error",
            "raised TypeError",
        ),
        (  # one number
            "def one_step(w, g, lr): return [sum(a - lr * b for a, b in zip(w, g))]",
            "wrong",
            "one new weight for each weight",
        ),
    ],
    "diagnose": [
        ("def diagnose(losses): return 'fine'", "wrong", "one of the words"),
        ("def diagnose(losses): return 'good'", "wrong", "hardly falls"),
        (  # a fixed threshold
            """
def diagnose(losses):
    if losses[-1] < 1: return "good"
    return "too low" if losses[-1] < losses[0] else "too high"
""",
            "wrong",
            "climbs back",
        ),
        (  # a fixed threshold on an average
            """
def diagnose(losses):
    first, last = sum(losses[:9]) / 9, sum(losses[-9:]) / 9
    if last < 1: return "good"
    return "too low" if first * 0.7 < last < first else "too high"
""",
            "wrong",
            "only the shape counts: from 30",
        ),
        (  # first against last: what happens between them is not seen
            """
def diagnose(losses):
    first, last = sum(losses[:5]) / 5, sum(losses[-5:]) / 5
    if not last <= first: return "too high"
    return "good" if last < 0.7 * first else "too low"
""",
            "wrong",
            "climbs back",
        ),
        (  # no thought of NaN: every comparison with it is false
            """
def diagnose(losses):
    first, last = sum(losses[:5]) / 5, sum(losses[-5:]) / 5
    if last > first: return "too high"
    return "too low" if last > 0.8 * first else "good"
""",
            "wrong",
            "no number (NaN)",
        ),
        ("def diagnose(losses): return losses.mean()", "error", "raised AttributeError"),
    ],
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_a_right_answer_of_another_form_passes(name):
    cell = {}
    exec(compile(ACCEPTED[name], "<cell>", "exec"), cell)
    result = getattr(check, name)(cell[name])
    assert result.outcome == "passed", result
