"""Typical mistakes in the exercises of notebook 14 (see test_n06.py for the form)."""

_ONE_OUT = "def leave_one_out(rewards):\n    n, total = len(rewards), sum(rewards)\n    return {}"
_KTO = """
import torch


def kto_loss(ratios, labels, z, beta, good_weight, bad_weight):
    gain = {gain}
    gain = torch.where(labels, gain, {bad})
    weights = {weights}
    return (weights * {loss}){mean}
"""
_PARTS = {
    "gain": "beta * (ratios - z)",
    "bad": "-gain",
    "weights": "torch.where(labels, good_weight, bad_weight)",
    "loss": "(1 - gain.sigmoid())",
    "mean": ".mean()",
}
_PAIRS = """
def pairs_of_group(answers, scores, gap):
    scored = list(zip(answers, scores))
    return {}
"""


def _kto(**fault):
    return _KTO.format(**_PARTS | fault)


def _one_out(result):
    return _ONE_OUT.format(result)


def _pairs(result):
    return _PAIRS.format(result)


MISTAKES = {
    "leave_one_out": [
        (_one_out("[r - total / n for r in rewards]"), "wrong", "the mean of the *others*"),
        (_one_out("[(total - r) / (n - 1) - r for r in rewards]"), "wrong", "positive advantage"),
        (_one_out("total / n"), "error", "leave_one_out"),
        (  # GRPO's
            "def leave_one_out(rewards):\n"
            "    import statistics\n"
            "    n, total = len(rewards), sum(rewards)\n"
            "    apart = [r - (total - r) / (n - 1) for r in rewards]\n"
            "    return [a / (statistics.pstdev(apart) + 1e-12) for a in apart]",
            "wrong",
            "not in units of the spread",
        ),
        (_one_out("[r for r in rewards[1:]]"), "wrong", "one advantage for each reward"),
        (_one_out("[1.0 if r == max(rewards) else -1.0 for r in rewards]"), "wrong", "equal"),
    ],
    "kto_loss": [
        (_kto(bad="gain"), "wrong", "good answers are pushed up, bad ones down"),
        (_kto(gain="beta * (z - ratios)"), "wrong", "good answers are pushed up"),
        (_kto(gain="beta * ratios"), "wrong", "at the point z every loss is one half"),
        (_kto(gain="beta * ratios - z"), "wrong", "at the point z"),
        (_kto(gain="ratios - z"), "wrong", "beta times the distance"),
        (_kto(loss="(-gain.sigmoid().log())"), "wrong", "at the point z"),
        (_kto(mean=".sum()"), "wrong", "the mean over the rows"),
        (_kto(mean=""), "wrong", "one number"),
        (_kto(weights="1.0"), "wrong", "good answers count with `good_weight`"),
        (
            _kto(weights="torch.where(labels, bad_weight, good_weight)"),
            "wrong",
            "good answers count with `good_weight`",
        ),
        (  # a weighted mean
            _kto(mean=".sum() / torch.where(labels, good_weight, bad_weight).sum()"),
            "wrong",
            "divided by all rows",
        ),
    ],
    "pairs_of_group": [
        (
            _pairs("{(b, a) for a, p in scored for b, q in scored if p - q >= gap and p > q}"),
            "wrong",
            "the better text first",
        ),
        (
            _pairs("{(a, b) for a, p in scored for b, q in scored if p - q > gap}"),
            "wrong",
            "`gap` or more apart",
        ),
        (_pairs("{(a, b) for a, p in scored for b, q in scored if p > q}"), "wrong", "closer"),
        (
            _pairs("{(a, b) for a, p in scored for b, q in scored if a != b and p - q >= gap}"),
            "wrong",
            "equal scores are a tie",
        ),
        (
            _pairs("[(a, b) for a, p in scored for b, q in scored if p - q >= gap and p > q]"),
            "wrong",
            "sampled twice",
        ),
        (_pairs("{(max(scored)[0], min(scored)[0])}"), "wrong", "every two answers"),
    ],
}
