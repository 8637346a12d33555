"""Typical mistakes in the exercises of notebook 11 (see test_n06.py for the form)."""

_CLIP = """
def clipped(gradients, max_norm):
    norm = sum(float(g.square().sum()) for g in gradients) ** 0.5
    return {result}
"""
_RATE = """
import math
import numpy as np
from statistics import mean, stdev
def careful_rate(losses):
    means = {{r: {center}(x) for r, x in losses.items() if {usable}}}
    best = min(means, key=means.get)
    error = {error}
    return {result}
"""
_RULE = {
    "center": "mean",
    "usable": "all(map(math.isfinite, x))",
    "error": "stdev(losses[best]) / math.sqrt(len(losses[best]))",
    "result": "min(r for r, value in means.items() if value <= means[best] + error)",
}


def _updates(formula):
    return f"import math\ndef updates(rows, batch, accumulation, epochs):\n    return {formula}"


def _clip(result):
    return _CLIP.format(result=result)


def _rate(**fault):
    return _RATE.format(**_RULE | fault)


MISTAKES = {
    "updates": [
        (
            _updates("int(rows / batch / accumulation * epochs)"),
            "wrong",
            "a smaller last batch counts",
        ),
        (_updates("math.ceil(rows / batch) * epochs"), "wrong", "`accumulation` batches"),
        (_updates("math.ceil(rows / batch / accumulation)"), "wrong", "every epoch passes"),
        (
            _updates("math.ceil(epochs * (math.ceil(rows / batch) // accumulation))"),
            "wrong",
            "a smaller last group of batches",
        ),
        (  # all epochs as one long list of rows
            _updates("math.ceil(rows * epochs / batch / accumulation)"),
            "wrong",
            "batches do not reach across epochs",
        ),
        (
            _updates("math.ceil(math.ceil(rows / batch) * epochs / accumulation)"),
            "wrong",
            "groups of batches do not reach across epochs",
        ),
        (
            _updates("int(epochs * math.ceil(rows / (batch * accumulation)))"),
            "wrong",
            "rounded up to whole updates",
        ),
        (
            _updates("epochs * math.ceil(rows / (batch * accumulation))"),
            "wrong",
            "rounded up to whole updates",
        ),
    ],
    "clipped": [
        (  # each number on its own
            _clip("[g.clamp(-max_norm, max_norm) for g in gradients]"),
            "wrong",
            "the direction stays",
        ),
        (  # each tensor on its own
            _clip("[g * min(1.0, max_norm / float(g.norm())) for g in gradients]"),
            "wrong",
            "one factor for every number",
        ),
        (
            _clip("[g * max_norm / norm for g in gradients]"),
            "wrong",
            "short gradients are not stretched",
        ),
        (
            _clip("[g * min(1.0, 1.0 / (norm + 1e-6)) for g in gradients]"),
            "wrong",
            "max_norm is an argument",
        ),
        (  # the square of the norm
            _clip("[g * min(1.0, max_norm / norm**2) for g in gradients]"),
            "wrong",
            "all tensors together have length max_norm",
        ),
        (
            _clip("[g * min(1.0, max_norm / norm) for g in gradients]"),
            "error",
            "ZeroDivisionError",
        ),
        (_clip("norm"), "wrong", "a list with one tensor for each"),
    ],
    "careful_rate": [
        (_rate(result="best"), "wrong", "within one standard error, the lowest"),
        (_rate(result="means[best]"), "wrong", "one of the rates"),
        (_rate(result="min(means)"), "wrong", "clearly best"),
        (
            _rate(result="next(r for r, v in means.items() if v <= means[best] + error)"),
            "wrong",
            "the order of the dictionary",
        ),
        (_rate(error="stdev(losses[best])"), "wrong", "that of the mean"),
        (
            _rate(error="max(stdev(x) / math.sqrt(len(x)) for x in losses.values())"),
            "wrong",
            "the best rate's, not another's",
        ),
        (_rate(center="min"), "wrong", "means are compared"),
        (  # seeds that blew up are left out, the rate stays
            _rate(
                center="np.nanmean", usable="True", error="np.nanstd(losses[best], ddof=1) / 3**0.5"
            ),
            "wrong",
            "a rate that blew up with any seed is out",
        ),
        (_rate(usable="True", error="0.05"), "error", "nan"),
    ],
}
