"""Typical mistakes in the exercises of notebook 03: (answer, outcome, part of the message)."""

MISTAKES = {
    "alpaca_messages": [
        (  # the input is forgotten
            """
def alpaca_messages(row):
    return [{"role": "user", "content": row["instruction"]},
            {"role": "assistant", "content": row["output"]}]
""",
            "wrong",
            "instruction, line break, input",
        ),
        (  # a line break hangs on
            """
def alpaca_messages(row):
    return [{"role": "user", "content": row["instruction"] + "\\n" + row["input"]},
            {"role": "assistant", "content": row["output"]}]
""",
            "wrong",
            "an empty input adds nothing",
        ),
        (  # ShareGPT's keys
            """
def alpaca_messages(row):
    return [{"from": "human", "value": row["instruction"]}, {"from": "gpt", "value": row["output"]}]
""",
            "wrong",
            '"role"',
        ),
        (  # input has to be there
            """
def alpaca_messages(row):
    asked = row["instruction"] + ("\\n" + row["input"] if row["input"] else "")
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": row["output"]}]
""",
            "error",
            "KeyError: 'input'",
        ),
        (  # always a system turn
            """
def alpaca_messages(row):
    asked = "\\n".join(filter(None, [row["instruction"], row.get("input")]))
    said = {"system": row.get("system", ""), "user": asked, "assistant": row["output"]}
    return [{"role": role, "content": text} for role, text in said.items()]
""",
            "wrong",
            "first user, then assistant",
        ),
        ("def alpaca_messages(row): return str(row)", "wrong", "a list"),
    ],
    "role_fault": [
        (  # True or False
            """
def role_fault(messages):
    roles = [message["role"] for message in messages]
    return roles[0::2] == ["user"] * len(roles[0::2])
""",
            "wrong",
            "a text, empty where nothing is wrong",
        ),
        (  # counted from 0
            """
def role_fault(messages):
    wanted = "user"
    for turn, message in enumerate(messages):
        if message["role"] == "system" and turn == 0:
            continue
        if message["role"] != wanted:
            return f"turn {turn} is from {message['role']}, expected {wanted}"
        wanted = {"user": "assistant", "assistant": "user"}[wanted]
    return ""
""",
            "wrong",
            "it has to say `turn N`",
        ),
        (  # the missing answer is not seen
            """
def role_fault(messages):
    allowed = ("system", "user")
    after = {"system": ("user",), "user": ("assistant",), "assistant": ("user",)}
    for turn, message in enumerate(messages, 1):
        if message["role"] not in allowed:
            return f"turn {turn} is from {message['role']}, expected {' or '.join(allowed)}"
        allowed = after[message["role"]]
    return ""
""",
            "wrong",
            "an answer is missing at the end",
        ),
        (  # says that, not which was expected
            """
def role_fault(messages):
    roles = [message["role"] for message in messages]
    roles = roles[roles[:1] == ["system"]:]
    for turn, role in enumerate(roles, 1):
        if role != ("assistant", "user")[turn % 2]:
            return f"turn {turn} is wrong"
    return ""
""",
            "wrong",
            "which role was expected",
        ),
        (  # system anywhere
            """
def role_fault(messages):
    roles = [(n, m["role"]) for n, m in enumerate(messages, 1) if m["role"] != "system"]
    for place, (turn, role) in enumerate(roles):
        wanted = ("user", "assistant")[place % 2]
        if role != wanted:
            return f"turn {turn} is from {role}, expected {wanted}"
    return ""
""",
            "wrong",
            "a system prompt in the middle",
        ),
    ],
    "near_pairs": [
        (  # divided by the smaller one
            """
from itertools import combinations
def near_pairs(texts, threshold=0.8, n=5):
    def pieces(text):
        text = " ".join(text.lower().split())
        return {text[i : i + n] for i in range(max(1, len(text) - n + 1))}
    sets = list(map(pieces, texts))
    return [(i, j) for i, j in combinations(range(len(texts)), 2)
            if len(sets[i] & sets[j]) / min(len(sets[i]), len(sets[j])) >= threshold]
""",
            "wrong",
            "shared pieces divided by all pieces",
        ),
        (  # words
            """
from itertools import combinations
def near_pairs(texts, threshold=0.8, n=5):
    sets = [set(text.lower().split()) for text in texts]
    return [(i, j) for i, j in combinations(range(len(texts)), 2)
            if len(sets[i] & sets[j]) / len(sets[i] | sets[j]) >= threshold]
""",
            "wrong",
            "shared pieces divided by all pieces",
        ),
        (  # each pair twice
            """
def near_pairs(texts, threshold=0.8, n=5):
    def pieces(text):
        text = " ".join(text.lower().split())
        return {text[i : i + n] for i in range(max(1, len(text) - n + 1))}
    sets = list(map(pieces, texts))
    places = range(len(texts))
    return [(i, j) for i in places for j in places
            if i != j and len(sets[i] & sets[j]) / len(sets[i] | sets[j]) >= threshold]
""",
            "wrong",
            "the earlier one first",
        ),
        (  # case counts
            """
from itertools import combinations
def near_pairs(texts, threshold=0.8, n=5):
    def pieces(text):
        return {text[i : i + n] for i in range(max(1, len(text) - n + 1))}
    sets = list(map(pieces, texts))
    return [(i, j) for i, j in combinations(range(len(texts)), 2)
            if len(sets[i] & sets[j]) / len(sets[i] | sets[j]) >= threshold]
""",
            "wrong",
            "case and the number of blanks",
        ),
        (  # short texts have no pieces
            """
from itertools import combinations
def near_pairs(texts, threshold=0.8, n=5):
    def pieces(text):
        text = " ".join(text.lower().split())
        return {text[i : i + n] for i in range(len(text) - n + 1)}
    sets = list(map(pieces, texts))
    return [(i, j) for i, j in combinations(range(len(texts)), 2)
            if len(sets[i] & sets[j]) / len(sets[i] | sets[j]) >= threshold]
""",
            "error",
            "ZeroDivisionError",
        ),
        (  # more than the threshold
            """
from itertools import combinations
def near_pairs(texts, threshold=0.8, n=5):
    def pieces(text):
        text = " ".join(text.lower().split())
        return {text[i : i + n] for i in range(max(1, len(text) - n + 1))}
    sets = list(map(pieces, texts))
    return [(i, j) for i, j in combinations(range(len(texts)), 2)
            if len(sets[i] & sets[j]) / len(sets[i] | sets[j]) > threshold]
""",
            "wrong",
            "equal counts",
        ),
        (  # Counter: how often counts
            """
from collections import Counter
from itertools import combinations
def near_pairs(texts, threshold=0.8, n=5):
    def pieces(text):
        text = " ".join(text.lower().split())
        return Counter(text[i : i + n] for i in range(max(1, len(text) - n + 1)))
    sets = list(map(pieces, texts))
    return [(i, j) for i, j in combinations(range(len(texts)), 2)
            if (sets[i] & sets[j]).total() / (sets[i] | sets[j]).total() >= threshold]
""",
            "wrong",
            "sets of pieces",
        ),
    ],
}
