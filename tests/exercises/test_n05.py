"""Typical mistakes in the exercises of notebook 05: (answer, outcome, part of the message)."""

MISTAKES = {
    "majority_share": [
        (  # a count
            """
from collections import Counter
def majority_share(train_answers, test_answers):
    return test_answers.count(Counter(train_answers).most_common(1)[0][0])
""",
            "wrong",
            "between 0 and 1",
        ),
        (  # looks at the test
            """
from collections import Counter
def majority_share(train_answers, test_answers):
    return Counter(test_answers).most_common(1)[0][1] / len(test_answers)
""",
            "wrong",
            "winner of the training data",
        ),
        (  # the share of the winner in the training data
            """
from collections import Counter
def majority_share(train_answers, test_answers):
    return Counter(train_answers).most_common(1)[0][1] / len(train_answers)
""",
            "wrong",
            "winner",
        ),
        (  # substring
            """
from collections import Counter
def majority_share(train_answers, test_answers):
    winner = Counter(train_answers).most_common(1)[0][0]
    return sum(winner in answer for answer in test_answers) / len(test_answers)
""",
            "wrong",
            "whole answers",
        ),
        ("def majority_share(train_answers, test_answers): ...", "not attempted", "blank"),
        ("def majority_share(train_answers): return 0.5", "error", "raised TypeError"),
    ],
    "paired_interval": [
        (  # draws the rows of each model apart
            """
import numpy as np
def paired_interval(before, after, draws=2000, seed=0):
    rng, n = np.random.default_rng(seed), len(before)
    gains = [after[rng.integers(0, n, n)].mean() - before[rng.integers(0, n, n)].mean()
             for _ in range(draws)]
    return np.quantile(gains, [0.025, 0.975])
""",
            "wrong",
            "same rows for both",
        ),
        (  # the wrong way round
            """
import numpy as np
def paired_interval(before, after, draws=2000, seed=0):
    rng, gain = np.random.default_rng(seed), before - after
    n = len(gain)
    means = [gain[rng.integers(0, n, n)].mean() for _ in range(draws)]
    return np.quantile(means, [0.025, 0.975])
""",
            "wrong",
            "a gain is positive",
        ),
        (  # the spread of rows, not of their mean
            """
import numpy as np
def paired_interval(before, after, draws=2000, seed=0):
    return np.quantile(after - before, [0.025, 0.975])
""",
            "wrong",
            "no wider",
        ),
        (  # 90 %
            """
import numpy as np
def paired_interval(before, after, draws=2000, seed=0):
    rng, gain = np.random.default_rng(seed), after - before
    n = len(gain)
    means = [gain[rng.integers(0, n, n)].mean() for _ in range(draws)]
    return np.quantile(means, [0.05, 0.95])
""",
            "wrong",
            "no narrower",
        ),
        (  # one number
            "def paired_interval(before, after, draws=2000, seed=0): return [after.mean()]",
            "wrong",
            "two numbers",
        ),
    ],
    "copied_rows": [
        (  # whole texts only
            """
def copied_rows(train_texts, test_texts, n=5):
    return [i for i, text in enumerate(test_texts) if text in train_texts]
""",
            "wrong",
            "do not hide a copy",
        ),
        (  # common words in any order
            r"""
import re
def copied_rows(train_texts, test_texts, n=5):
    words = lambda text: set(re.findall(r"\w+", text.lower()))
    return [i for i, text in enumerate(test_texts)
            if any(len(words(text) & words(other)) >= n for other in train_texts)]
""",
            "wrong",
            "the order of words counts",
        ),
        (  # all training texts in one string
            r"""
import re
def copied_rows(train_texts, test_texts, n=5):
    def runs(text):
        words = re.findall(r"\w+", text.lower())
        return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}
    seen = runs(" ".join(train_texts))
    return [i for i, text in enumerate(test_texts) if runs(text) & seen]
""",
            "wrong",
            "not across two",
        ),
        (  # n ignored
            r"""
import re
def copied_rows(train_texts, test_texts, n=5):
    def runs(text):
        words = re.findall(r"\w+", text.lower())
        return {tuple(words[i : i + 4]) for i in range(len(words) - 3)}
    seen = set().union(*map(runs, train_texts))
    return [i for i, text in enumerate(test_texts) if runs(text) & seen]
""",
            "wrong",
            "n is an argument",
        ),
        ("def copied_rows(train_texts, test_texts, n=5): return True", "wrong", "a list"),
    ],
}
