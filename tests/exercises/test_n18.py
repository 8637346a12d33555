"""Typical mistakes in the exercises of notebook 18 (see test_n06.py for the form)."""

_STEP = """
def same_step(rows, processes, most):
    mine = {mine}
    batch = {batch}
    return {result}
"""
_PARTS = {
    "mine": "rows // processes",
    "batch": "max(n for n in range(1, most + 1) if mine % n == 0)",
    "result": "batch, mine // batch",
}
_SHARE = """
def shared_out(sizes, processes):
    names, held = [[] for _ in range(processes)], [0] * processes
    for name in {order}:
        emptiest = {who}
        names[emptiest].append(name)
        held[emptiest] += {weight}
    return {result}
"""
_RULE = {
    "order": "sorted(sizes, key=sizes.get, reverse=True)",
    "who": "held.index(min(held))",
    "weight": "sizes[name]",
    "result": "names",
}


def _step(**fault):
    return _STEP.format(**_PARTS | fault)


def _gradient(result):
    return f"def shared_gradient(parts):\n    return {result}"


def _share(**fault):
    return _SHARE.format(**_RULE | fault)


MISTAKES = {
    "same_step": [
        (_step(mine="rows"), "wrong", "a step sees exactly so many rows"),
        (_step(result="mine // batch, batch"), "wrong", "the batch comes first"),
        (_step(batch="min(most, mine)"), "wrong", "a step sees exactly so many rows"),
        (_step(batch="1"), "wrong", "the batch as large as possible"),
        (_step(batch="mine"), "wrong", "no more rows at once than there is room for"),
        (_step(result="batch, mine / batch"), "wrong", "whole numbers"),
        (_step(result="batch"), "wrong", "two numbers: batch, accumulation"),
        (  # halves the room until it fits
            _step(batch="next(most >> k for k in range(9) if mine % max(most >> k, 1) == 0)"),
            "wrong",
            "the largest batch that divides without a rest",
        ),
    ],
    "shared_gradient": [
        (_gradient("sum(g for g, n in parts) / len(parts)"), "wrong", "every token counts"),
        (_gradient("sum(g * n for g, n in parts)"), "wrong", "the mean of the gradients"),
        (
            _gradient("sum(g * n for g, n in parts) / sum(n for _, n in parts)"),
            "wrong",
            "a process without tokens brings NaN",
        ),
        (
            _gradient(
                "sum(g.nan_to_num() * max(n, 1) for g, n in parts)"
                " / sum(max(n, 1) for _, n in parts)"
            ),
            "wrong",
            "a process without tokens changes nothing",
        ),
        (_gradient("sum(g * n for g, n in parts).sum()"), "wrong", "of the shape of a gradient"),
        (_gradient("[g * n for g, n in parts]"), "wrong", "one tensor"),
    ],
    "shared_out": [
        (
            _share(order="sizes", who="len(sum(names, [])) % processes"),
            "wrong",
            "sizes count, not how many",
        ),
        (
            _share(who="len(sum(names, [])) % processes"),
            "wrong",
            "the fullest holds little",
        ),
        (_share(order="sizes"), "wrong", "a large tensor that comes late"),
        (_share(order="sorted(sizes, key=sizes.get)"), "wrong", "a large tensor that comes late"),
        (_share(weight="1"), "wrong", "the fullest holds little"),
        (_share(result="held"), "wrong", "one list of names for each"),
        (_share(result="[n for n in names if n]"), "wrong", "one list of names for each process"),
        (_share(order="list(sizes)[:-1]"), "wrong", "no name is left out"),
        (_share(who="0"), "wrong", "equal tensors, equal shares"),
    ],
}
