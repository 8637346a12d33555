"""Typical mistakes in the exercises of notebook 09: (answer, outcome, part of the message)."""

MISTAKES = {
    "bits_per_weight": [
        ("def bits_per_weight(block, double): return 4", "wrong", "absmax needs room"),
        (  # bytes
            "def bits_per_weight(block, double): return (4 + 32 / block) / 8",
            "wrong",
            "more than the 4 bits",
        ),
        (  # forgets the second absmax
            "def bits_per_weight(block, double): return 4 + (8 if double else 32) / block",
            "wrong",
            "still share an absmax",
        ),
        (  # an absmax of 32 bits for 256 weights
            """
def bits_per_weight(block, double):
    return 4 + (8 / block + 32 / 256 if double else 32 / block)
""",
            "wrong",
            "not 256 weights",
        ),
        ("def bits_per_weight(block, double): return 4.5", "wrong", "is an argument"),
        ("def bits_per_weight(block, double): ...", "not attempted", "blank"),
    ],
    "int8_rows": [
        (  # one absmax for all
            """
def int8_rows(weights):
    top = weights.abs().max()
    return (127 * weights / top).round(), top.repeat(len(weights))
""",
            "wrong",
            "largest weight of each row",
        ),
        (  # cuts
            """
def int8_rows(weights):
    absmax = weights.abs().amax(1)
    return (127 * weights / absmax[:, None]).trunc(), absmax
""",
            "wrong",
            "do not cut",
        ),
        (  # 128
            """
def int8_rows(weights):
    absmax = weights.abs().amax(1)
    return (128 * weights / absmax[:, None]).round(), absmax
""",
            "wrong",
            "beyond 127",
        ),
        (  # NaN
            """
def int8_rows(weights):
    absmax = weights.abs().amax(1)
    return (127 * weights / absmax[:, None]).round(), absmax
""",
            "wrong",
            "row of zeros",
        ),
        (  # not rounded at all
            """
def int8_rows(weights):
    absmax = weights.abs().amax(1)
    return 127 * weights / absmax[:, None], absmax
""",
            "wrong",
            "whole numbers",
        ),
    ],
    "best_levels": [
        (  # even steps
            """
import numpy as np
def best_levels(values, count): return np.linspace(values.min(), values.max(), count)
""",
            "wrong",
            "middle of each",
        ),
        (  # quantiles
            """
import numpy as np
def best_levels(values, count): return np.quantile(values, (np.arange(count) + 0.5) / count)
""",
            "wrong",
            "middle of each",
        ),
        (  # stops too soon
            """
import numpy as np
def best_levels(values, count):
    levels = np.quantile(values, (np.arange(count) + 0.5) / count)
    for _ in range(4):
        near = np.abs(values[:, None] - levels).argmin(1)
        levels = np.array([values[near == k].mean() for k in range(count)])
    return levels
""",
            "wrong",
            "lies at the mean",
        ),
        (  # downward
            """
import numpy as np
def best_levels(values, count): return np.linspace(1, -1, count)
""",
            "wrong",
            "sorted",
        ),
        ("def best_levels(values, count): return [0.0] * 16", "wrong", "as many levels"),
    ],
}
