"""Typical mistakes in the exercises of notebook 15: (answer, outcome, part of the message)."""

MISTAKES = {
    "stored_bytes": [
        (  # forgets the scales
            """
def stored_bytes(rows, columns, kind):
    return int(rows * columns * {"f16": 2, "q8_0": 1, "q4_0": 0.5}[kind])
""",
            "wrong",
            "two for the scale",
        ),
        (  # bits
            """
def stored_bytes(rows, columns, kind):
    return rows * columns * {"f16": 16, "q8_0": 8.5, "q4_0": 4.5}[kind]
""",
            "wrong",
            "two bytes for each weight",
        ),
        (  # a whole byte for each code of 4 bits
            """
def stored_bytes(rows, columns, kind):
    return rows * columns // 32 * {"f16": 64, "q8_0": 34, "q4_0": 34}[kind]
""",
            "wrong",
            "share a byte",
        ),
        (  # one scale a row
            """
def stored_bytes(rows, columns, kind):
    each = {"f16": 2, "q8_0": 1, "q4_0": 0.5}[kind]
    return int(rows * (columns * each + (0 if kind == "f16" else 2)))
""",
            "wrong",
            "every block",
        ),
        ("def stored_bytes(rows, columns, kind): ...", "not attempted", "blank"),
        ("def stored_bytes(rows): return 1", "error", "raised TypeError"),
    ],
    "q8_0": [
        (  # cuts instead of rounding
            """
import numpy as np
def q8_0(block):
    scale = abs(block).max() / 127 or 1.0
    return scale, np.trunc(block / scale * 1.0000001).astype(np.int8)
""",
            "wrong",
            "half a step",
        ),
        (  # the largest value, not the largest size
            """
import numpy as np
def q8_0(block):
    scale = block.max() / 127 or 1.0
    return scale, np.round(block / scale)
""",
            "wrong",
            "127",
        ),
        (  # signs lost
            """
import numpy as np
def q8_0(block):
    scale = abs(block).max() / 127 or 1.0
    return scale, np.round(abs(block) / scale)
""",
            "wrong",
            "sign",
        ),
        (  # divides by zero
            """
import numpy as np
def q8_0(block):
    scale = abs(block).max() / 127
    with np.errstate(all="ignore"):
        return scale, np.round(block / scale)
""",
            "wrong",
            "block of zeros",
        ),
        (  # not rounded at all
            """
def q8_0(block):
    scale = abs(block).max() / 127 or 1.0
    return scale, block / scale
""",
            "wrong",
            "whole numbers",
        ),
        ("def q8_0(block): ...", "not attempted", "blank"),
    ],
    "ties": [
        (  # a plain mean
            """
import numpy as np
def ties(changes, density):
    return np.mean(changes, axis=0)
""",
            "wrong",
            "largest in size are kept",
        ),
        (  # the largest values, signs counted
            """
import numpy as np
def ties(changes, density):
    kept = []
    for change in changes:
        edge = np.sort(change, axis=None)[-round(density * change.size)]
        kept.append(np.where(change >= edge, change, 0))
    return np.mean(kept, axis=0)
""",
            "wrong",
            "large negative",
        ),
        (  # adds
            """
import numpy as np
def ties(changes, density):
    kept = []
    for change in changes:
        edge = np.sort(abs(change), axis=None)[-round(density * change.size)]
        kept.append(np.where(abs(change) >= edge, change, 0))
    return np.sum(kept, axis=0)
""",
            "wrong",
            "averaged, not added",
        ),
        (  # no election
            """
import numpy as np
def ties(changes, density):
    kept = []
    for change in changes:
        edge = np.sort(abs(change), axis=None)[-round(density * change.size)]
        kept.append(np.where(abs(change) >= edge, change, 0))
    return np.mean(kept, axis=0)
""",
            "wrong",
            "elects the sign",
        ),
        (  # divides by all changes
            """
import numpy as np
def ties(changes, density):
    kept = []
    for change in changes:
        edge = np.sort(abs(change), axis=None)[-round(density * change.size)]
        kept.append(np.where(abs(change) >= edge, change, 0))
    kept = np.array(kept)
    sign = np.sign(kept.sum(axis=0))
    return np.where(np.sign(kept) == sign, kept, 0).sum(axis=0) / (np.sign(kept) * sign >= 0).sum(0)
""",
            "wrong",
            "trimmed",
        ),
        ("def ties(changes, density): ...", "not attempted", "blank"),
    ],
}
