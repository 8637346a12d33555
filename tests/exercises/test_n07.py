"""Typical mistakes in the exercises of notebook 07 (see test_n06.py for the form)."""

_MIX = """
import random
def with_replay(new, old, share, seed):
    rng = random.Random(seed)
    count = {count}
    mixed = {mixed}
    {order}
    return mixed
"""
_RIGHT = {
    "count": "round(len(new) * share / (1 - share))",
    "mixed": "[*new, *rng.sample(list(old), count)]",
    "order": "rng.shuffle(mixed)",
}
_STOP = """
def best_step(history, patience):
    best, waited = None, 0
    for record in history:
        {skip}
        if best is None or record["eval_loss"] {better} best["eval_loss"]:
            best = record
            {reset}
        else:
            waited += 1
        if waited {full} patience:
            break
    return {result}
"""
_RULE = {
    "skip": 'if "eval_loss" not in record: continue',
    "better": "<",
    "reset": "waited = 0",
    "full": "==",
    "result": 'best["step"]',
}


def _mix(**fault):
    return _MIX.format(**_RIGHT | fault)


def _stop(**fault):
    return _STOP.format(**_RULE | fault)


MISTAKES = {
    "combined_loss": [
        (
            "def combined_loss(losses, tokens): return sum(losses) / len(losses)",
            "wrong",
            "a micro-batch without trained tokens counts nothing",
        ),
        (
            "def combined_loss(losses, tokens): return sum(losses)",
            "wrong",
            "with as many tokens in each it is the plain mean",
        ),
        (  # the sum over tokens, never divided
            "def combined_loss(losses, tokens):\n"
            "    return sum(a * b for a, b in zip(losses, tokens))",
            "wrong",
            "a single micro-batch keeps its loss",
        ),
        (  # the empty micro-batch is dropped, the others still weigh the same
            "def combined_loss(losses, tokens):\n"
            "    kept = [a for a, b in zip(losses, tokens) if b]\n"
            "    return sum(kept) / len(kept)",
            "wrong",
            "each token has the same weight, not each micro-batch",
        ),
        (  # weights turned round
            "def combined_loss(losses, tokens):\n"
            "    weights = [1 / t for t in tokens]\n"
            "    return sum(a * b for a, b in zip(losses, weights)) / sum(weights)",
            "error",
            "combined_loss([1.0, 9.0], [5, 0])` raised ZeroDivisionError",
        ),
    ],
    "with_replay": [
        (
            _mix(count="round(len(new) * share)"),
            "wrong",
            "the share is that of the old rows among all rows. Yours: '15 old rows",
        ),
        (
            _mix(count="round(len(old) * share)"),
            "wrong",
            "Yours: '100 old rows",
        ),
        (  # the total stays, new rows give way
            _mix(
                count="round(len(new) * share)",
                mixed="[*new[count:], *rng.sample(list(old), count)]",
            ),
            "wrong",
            "every new row stays",
        ),
        (
            _mix(mixed="[*new, *rng.choices(old[:5], k=count)]"),
            "wrong",
            "no row comes twice",
        ),
        (_mix(order=""), "wrong", "old and new rows stand mixed"),
        (_mix(mixed="[*new, *old[:count]]"), "wrong", "another seed draws other old rows"),
        (
            _mix().replace("random.Random(seed)", "random"),
            "wrong",
            "the same seed gives the same rows again",
        ),
        (  # shuffle returns None
            _mix(order="return rng.shuffle(mixed)"),
            "wrong",
            "is a `return` missing?",
        ),
    ],
    "best_step": [
        (
            "def best_step(history, patience):\n"
            "    return min(history, key=lambda r: r['loss'])['step']",
            "wrong",
            "not the one where you stop",
        ),
        (  # no patience at all
            "def best_step(history, patience):\n"
            "    found = [r for r in history if 'eval_loss' in r]\n"
            "    return min(found, key=lambda r: r['eval_loss'])['step']",
            "wrong",
            "what comes later is never seen",
        ),
        (
            "def best_step(history, patience):\n"
            "    losses = [r['eval_loss'] for r in history]\n"
            "    return losses.index(min(losses))",
            "wrong",
            "while eval loss falls, the last evaluation is the best",
        ),
        (_stop(result='record["step"]'), "wrong", "not the one where you stop"),
        (_stop(full=">= 1 or waited =="), "wrong", "one bump is forgiven"),
        (_stop(reset="pass"), "wrong", "the count starts again at each new low"),
        (_stop(better="<="), "wrong", "an equal loss is no improvement"),
        (_stop(skip="pass"), "error", "KeyError"),
        (
            _stop(skip='record = {"eval_loss": 99.0, **record}'),
            "wrong",
            "records without eval_loss are no evaluations",
        ),
    ],
}
