"""Typical mistakes in the exercises of notebook 12 (see test_n06.py for the form)."""

_PREFERRED = "import math\ndef preferred(first, second): return {result}"
_RATE = "def fair_win_rate(shown_first, shown_second):\n    {body}"
_PRICES = """
def kl_prices(kls, target, start):
    prices, price = [], start
    for kl in kls:
        error = {error}
        {change}
        prices.append({kept})
    return prices
"""
_STEP = {
    "error": "min(max(kl / target - 1, -0.2), 0.2)",
    "change": "price *= 1 + error",
    "kept": "price",
}


def _prices(**fault):
    return _PRICES.format(**_STEP | fault)


MISTAKES = {
    "preferred": [
        (_PREFERRED.format(result="float(first > second)"), "wrong", "equal scores"),
        (
            _PREFERRED.format(result="1 / (1 + math.exp(first - second))"),
            "wrong",
            "the higher score wins more often",
        ),
        (  # each answer by itself
            _PREFERRED.format(result="0.5 + first / 10 - 0.15"),
            "wrong",
            "both orders sum to 1",
        ),
        (
            "def preferred(first, second):\n"
            "    if first == second:\n"
            "        return 0.5\n"
            "    low = min(first, second, 0)\n"
            "    return (first - low) / (first + second - 2 * low)",
            "wrong",
            "adding 100 to both scores changes nothing",
        ),
        (
            _PREFERRED.format(result="1 / (1 + 2 ** (second - first))"),
            "wrong",
            "the log of the odds",
        ),
        (
            _PREFERRED.format(result="1 / (1 + math.exp(second - first))"),
            "error",
            "raised OverflowError",
        ),
    ],
    "fair_win_rate": [
        (  # the place, not the answer
            _RATE.format(
                body='return (shown_first + shown_second).count("A") / 2 / len(shown_first)'
            ),
            "wrong",
            "named in both orders",
        ),
        (
            _RATE.format(body='return shown_first.count("A") / len(shown_first)'),
            "wrong",
            "a judge that always says A",
        ),
        (  # a contradiction as a defeat
            _RATE.format(
                body='wins = [a == "A" and b == "B" for a, b in zip(shown_first, shown_second)]\n'
                "    return sum(wins) / len(wins)"
            ),
            "wrong",
            "a judge that always says A",
        ),
        (  # contradictions left out
            _RATE.format(
                body="kept = [a for a, b in zip(shown_first, shown_second) if a != b]\n"
                '    return kept.count("A") / len(kept) if kept else 0.5'
            ),
            "wrong",
            "a contradiction is half a win",
        ),
        (
            _RATE.format(
                body="kept = [a for a, b in zip(shown_first, shown_second) if a != b]\n"
                '    return kept.count("A") / len(kept)'
            ),
            "error",
            "raised ZeroDivisionError",
        ),
    ],
    "kl_prices": [
        (_prices(change="price *= error"), "wrong", "at the target the price stays"),
        (_prices(error="min(max(1 - kl / target, -0.2), 0.2)"), "wrong", "10 % above the target"),
        (_prices(error="0.2 if kl > target else -0.2"), "wrong", "at the target the price stays"),
        (_prices(error="kl / target - 1"), "wrong", "20 % dearer in one round at most"),
        (_prices(error="min(kl / target - 1, 0.2)"), "wrong", "20 % cheaper in one round at most"),
        (
            _prices(change="price = start * (1 + error)"),
            "wrong",
            "each round starts from the last price",
        ),
        (
            "def kl_prices(kls, target, start): return start * 1.2",
            "error",
            "TypeError",
        ),
    ],
}
