"""Typical mistakes in the exercises of notebook 17: (answer, outcome, part of the message)."""

MISTAKES = {
    "standing_bytes": [
        (  # bits
            "def standing_bytes(base, bits, adapters): return base * bits + 16 * adapters",
            "wrong",
            "bytes, not bits",
        ),
        (  # weights only
            "def standing_bytes(base, bits, adapters): return base * bits / 8 + 4 * adapters",
            "wrong",
            "has a gradient",
        ),
        (  # one mean
            "def standing_bytes(base, bits, adapters): return base * bits / 8 + 12 * adapters",
            "wrong",
            "two means",
        ),
        (  # trains the base
            "def standing_bytes(base, bits, adapters): return 16 * (base + adapters)",
            "wrong",
            "bytes, not bits",
        ),
        (  # whole bytes
            "def standing_bytes(base, bits, adapters): return base * int(bits) / 8 + 16 * adapters",
            "wrong",
            "need not be a whole number",
        ),
        (  # always 16 bits
            "def standing_bytes(base, bits, adapters): return 2 * base + 16 * adapters",
            "wrong",
            "is an argument",
        ),
        ("def standing_bytes(base, bits, adapters): ...", "not attempted", "blank"),
    ],
    "best_fit": [
        (  # one after the other
            """
def best_fit(lengths, room):
    windows, left = [], 0
    for row, length in enumerate(lengths):
        if length > left:
            windows.append([])
            left = room
        windows[-1].append(row)
        left -= length
    return windows
""",
            "wrong",
            "with the least room",
        ),
        (  # the window with the most room
            """
def best_fit(lengths, room):
    windows, left = [], []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        fitting = [k for k, free in enumerate(left) if free >= lengths[row]]
        best = max(fitting, key=lambda k: left[k]) if fitting else len(windows)
        if not fitting:
            windows.append([])
            left.append(room)
        windows[best].append(row)
        left[best] -= lengths[row]
    return windows
""",
            "wrong",
            "with the least room",
        ),
        (  # the first window with room
            """
def best_fit(lengths, room):
    windows, left = [], []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        best = next((k for k, free in enumerate(left) if free >= lengths[row]), len(windows))
        if best == len(windows):
            windows.append([])
            left.append(room)
        windows[best].append(row)
        left[best] -= lengths[row]
    return windows
""",
            "wrong",
            "with the least room",
        ),
        (  # lengths, not numbers
            "def best_fit(lengths, room): return [[length] for length in lengths]",
            "wrong",
            "every row number once",
        ),
        (  # everything into one
            "def best_fit(lengths, room): return [list(range(len(lengths)))]",
            "wrong",
            "no window holds more",
        ),
        (  # a window each
            "def best_fit(lengths, room): return [[row] for row in range(len(lengths))]",
            "wrong",
            "fill the gaps",
        ),
        ("def best_fit(lengths, room): return 2", "wrong", "a list of windows"),
    ],
    "mfu": [
        (  # percent
            "def mfu(flops, tokens, seconds, peak): return 100 * flops * tokens / seconds / peak",
            "wrong",
            "not a percentage",
        ),
        (  # one token
            "def mfu(flops, tokens, seconds, peak): return flops / seconds / peak",
            "wrong",
            "share of 1",
        ),
        (  # seconds upside down
            "def mfu(flops, tokens, seconds, peak): return flops * tokens * seconds / peak",
            "wrong",
            "twice the seconds",
        ),
        (  # a rate, not a share
            "def mfu(flops, tokens, seconds, peak): return flops * tokens / seconds",
            "wrong",
            "not a percentage",
        ),
    ],
}
