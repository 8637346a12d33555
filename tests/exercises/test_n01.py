"""Typical mistakes in the exercises of notebook 01 (see test_n06.py for the form)."""


def _bytes(formula):
    return f"def training_bytes(parameters, trained, size=4):\n    return {formula}"


def _lora(formula):
    return f"def lora_numbers(shapes, rank):\n    return {formula}"


def _moved(measure):
    return (
        "def moved_most(before, after):\n"
        "    def moved(n):\n"
        f"        return float({measure})\n"
        "    return max(before, key=moved)"
    )


MISTAKES = {
    "training_bytes": [
        (_bytes("size * 4 * parameters"), "wrong", "the weights alone"),
        (_bytes("size * 4 * trained"), "wrong", "the weights alone"),
        (_bytes("size * (parameters + 2 * trained)"), "wrong", "two of AdamW's each"),
        (_bytes("size * (parameters + trained)"), "wrong", "two of AdamW's each"),
        (_bytes("size * parameters * (4 if trained else 1)"), "wrong", "frozen weights have no"),
        (_bytes("4 * (parameters + 3 * trained)"), "wrong", "`size` bytes"),
    ],
    "lora_numbers": [
        (_lora("sum(o * i for o, i in shapes)"), "wrong", "a row of A and a column of B"),
        (_lora("sum(o + i for o, i in shapes)"), "wrong", "rank times both"),
        (_lora("sum(2 * rank * o for o, i in shapes)"), "wrong", "outputs and inputs may differ"),
        (_lora("rank * (shapes[0][0] + shapes[0][1])"), "wrong", "all matrices together"),
        (
            _lora("rank * len(shapes) * (shapes[0][0] + shapes[0][1])"),
            "wrong",
            "all matrices together",
        ),
    ],
    "moved_most": [
        (_moved("(after[n] - before[n]).sum()"), "wrong", "weights that fall"),
        (_moved("(after[n] - before[n]).mean().abs()"), "wrong", "do not cancel out"),
        (_moved("(after[n] - before[n]).norm()"), "wrong", "relative to the tensor's own length"),
        (
            _moved("(after[n] - before[n]).norm() / before[n].abs().max()"),
            "wrong",
            "does not win by its size",
        ),
        (
            _moved("((after[n] - before[n]) / before[n]).abs().max()"),
            "wrong",
            "not its largest entry",
        ),
        (
            _moved("(after[n] - before[n]).norm() / before[n].norm()"),
            "wrong",
            "a tensor of zeros",
        ),
        ("def moved_most(before, after): return after['b']", "wrong", "a name"),
    ],
}  # fmt: skip
