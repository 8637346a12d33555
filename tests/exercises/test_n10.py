"""Typical mistakes in the exercises of notebook 10 (see test_n06.py for the form)."""

_NUMBERS = """
def trained_numbers(method, layers, hidden, keys, inside, size):
    if method == "prompt":
        return {prompt}
    if method == "prefix":
        return {prefix}
    if method == "ia3":
        return {ia3}
    return {bottleneck}
"""
_COUNTS = {
    "prompt": "size * hidden",
    "prefix": "layers * 2 * size * keys",
    "ia3": "layers * (2 * keys + inside)",
    "bottleneck": "layers * 2 * (2 * hidden * size + size + hidden)",
}
_PROMPT = """
import torch
import torch.nn.functional as F
def with_prompt(prompt, vectors, mask, labels):
    n = len(prompt)
    first = {first}
    vectors = torch.cat({order}, dim=1)
    return vectors, {mask}, {labels}
"""
_PARTS = {
    "first": "prompt.expand(len(vectors), -1, -1)",
    "order": "[first, vectors]",
    "mask": "F.pad(mask, (n, 0), value=1)",
    "labels": "F.pad(labels, (n, 0), value=-100)",
}
_FRONT = """
def pareto(table):
    def beaten(parameters, score):
        return any({rule} for p, s in table.values())
    return {{name for name, pair in table.items() if not beaten(*pair)}}
"""


def _numbers(**fault):
    return _NUMBERS.format(**_COUNTS | fault)


def _prompt(**fault):
    return _PROMPT.format(**_PARTS | fault)


def _front(rule):
    return _FRONT.format(rule=rule)


MISTAKES = {
    "trained_numbers": [
        (_numbers(prompt="layers * size * hidden"), "wrong", "as wide as the model"),
        (_numbers(prompt="size * keys"), "wrong", "as wide as the model"),
        (_numbers(prefix="2 * size * keys"), "wrong", "every layer has a prefix of its own"),
        (_numbers(prefix="layers * size * keys"), "wrong", "a prefix has keys and values"),
        (_numbers(prefix="layers * 2 * size * hidden"), "wrong", "as wide as keys are"),
        (_numbers(ia3="layers * (2 * keys + inside) * size"), "wrong", "no size to choose"),
        (_numbers(ia3="layers * (2 * hidden + inside)"), "wrong", "a number per key"),
        (  # down and up, but once in a layer
            _numbers(bottleneck="layers * (2 * hidden * size + size + hidden)"),
            "wrong",
            "two matrices (down, up) at two places in a layer",
        ),
        (_numbers(bottleneck="layers * 4 * hidden * size"), "wrong", "have a bias each"),
    ],
    "with_prompt": [
        (_prompt(labels="labels"), "wrong", "each of the three is as many places longer"),
        (_prompt(order="[vectors, first]"), "wrong", "stand after the prompt"),
        (_prompt(mask="F.pad(mask, (n, 0), value=0)"), "wrong", "the mask is 1 where"),
        (  # new ones at the wrong end
            _prompt(mask="F.pad(mask, (0, n), value=1)"),
            "wrong",
            "padding stays padding",
        ),
        (_prompt(labels="F.pad(labels, (n, 0), value=0)"), "wrong", "no label where the prompt is"),
        (_prompt(labels="F.pad(labels, (0, n), value=-100)"), "wrong", "no label where"),
        (_prompt(labels="torch.full(mask.shape, -100).repeat(1, 2)[:, :6]"), "wrong", "own labels"),
        (_prompt(first="prompt.detach().expand(2, -1, -1)"), "wrong", "gradient is not cut off"),
        (  # a fresh random prompt
            _prompt(first="torch.randn(len(vectors), n, 3)"),
            "wrong",
            "each row begins with the prompt",
        ),
        (_prompt(first="prompt"), "error", "raised RuntimeError"),
    ],
    "pareto": [
        (_front("p < parameters and s > score"), "wrong", "lower score is beaten"),
        (_front("p <= parameters and s >= score"), "wrong", "alone is never beaten"),
        (_front("p <= parameters and s > score"), "wrong", "for the same score is beaten"),
        (_front("p < parameters and s >= score"), "wrong", "as many parameters and a lower score"),
        (_front("s > score"), "wrong", "is a choice, not a defeat"),
        (  # equals strike each other out
            "def pareto(table):\n"
            "    return {n for n, (p, s) in table.items() if not any(\n"
            "        m != n and q <= p and t >= s for m, (q, t) in table.items())}",
            "wrong",
            "do not beat each other",
        ),
        (
            "def pareto(table): return max(table, key=lambda name: table[name][1])",
            "wrong",
            "a set or list of names",
        ),
    ],
}
