"""Typical mistakes in the exercises of notebook 08 (see test_n06.py for the form)."""

_MERGE = "def merged_weight(weight, A, B, alpha): return {result}"
_SHRINK = """
import torch
def shrink(A, B, rank):
    u, s, v = torch.linalg.svd({product}, full_matrices=False)
    return {pair}
"""
_PAIR = {"product": "B @ A", "pair": "v[:rank], u[:, :rank] * s[:rank]"}


def _shrink(**fault):
    return _SHRINK.format(**_PAIR | fault)


MISTAKES = {
    "lora_parameters": [
        (  # the whole matrix
            "def lora_parameters(shapes, rank): return sum(a * b for a, b in shapes)",
            "wrong",
            "rank 1: one number for each row and one for each column",
        ),
        (
            "def lora_parameters(shapes, rank): return sum(2 * rank * b for a, b in shapes)",
            "wrong",
            "both sides count, each `rank` times",
        ),
        (  # rank squared
            "def lora_parameters(shapes, rank):\n"
            "    return sum(rank * rank * (a + b) for a, b in shapes)",
            "wrong",
            "both sides count, each `rank` times",
        ),
        (
            "def lora_parameters(shapes, rank):\n    a, b = shapes[0]\n    return rank * (a + b)",
            "error",
            "raised IndexError",
        ),
        (  # only the last layer
            "def lora_parameters(shapes, rank):\n"
            "    found = 0\n"
            "    for a, b in shapes:\n"
            "        found = rank * (a + b)\n"
            "    return found",
            "wrong",
            "every layer has its own pair",
        ),
    ],
    "merged_weight": [
        (
            _MERGE.format(result="weight + alpha * (B @ A)"),
            "wrong",
            "alpha = rank adds B @ A as it is",
        ),
        (_MERGE.format(result="weight + B @ A"), "wrong", "the change is alpha/rank times B @ A"),
        (_MERGE.format(result="weight + alpha / 8 * B @ A"), "wrong", "alpha = rank adds B @ A"),
        (
            _MERGE.format(result="weight + alpha / 2 * B @ A"),
            "wrong",
            "the rank is that of A and B",
        ),
        (_MERGE.format(result="alpha / len(A) * B @ A"), "wrong", "the change is alpha/rank"),
        (
            "def merged_weight(weight, A, B, alpha):\n"
            "    weight += alpha / len(A) * B @ A\n"
            "    return weight",
            "wrong",
            "the old weight stays as it is",
        ),
        (_MERGE.format(result="weight + alpha / len(A) * A @ B"), "error", "RuntimeError"),
    ],
    "shrink": [
        (  # cut off instead of chosen
            "def shrink(A, B, rank): return A[:rank], B[:, :rank]",
            "wrong",
            "no pair is nearer",
        ),
        (_shrink(pair="v[:rank], u[:, :rank]"), "wrong", "at full rank the product stays the same"),
        (_shrink(pair="u[:, :rank] * s[:rank], v[:rank]"), "wrong", "A is rank x in"),
        (_shrink(pair="v, u * s"), "wrong", "A is rank x in, B is out x rank"),
        (
            _shrink(pair="v[-rank:], u[:, -rank:] * s[-rank:]"),
            "wrong",
            "the product stays the same",
        ),
        (_shrink(product="A.T @ B.T"), "wrong", "A is rank x in"),
        (_shrink(pair="(u[:, :rank] * s[:rank]) @ v[:rank]"), "wrong", "a pair: A, then B"),
    ],
}
