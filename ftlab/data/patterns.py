"""Inside one text: a table of patterns, each with its cause and its cure; the script it is in.

`ftlab.data.checks` looks for them in all texts of all rows. Taught in
notebooks/03_data_formats.ipynb.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

_TOKEN = (
    r"<\|[A-Za-z_][\w ]{0,40}\|>|<｜[^｜<>]{1,40}｜>|</?s>|\[/?INST\]|<</?SYS>>"
    r"|<(?:start|end)_of_turn>|<[be]os>"
)


def _disarm(text: str) -> str:
    """Control tokens at the end taken away, others broken by a space."""
    text = re.sub(rf"(?:\s*(?:{_TOKEN}))+\s*\Z", "", text)
    return re.sub(_TOKEN, lambda found: f"{found[0][0]} {found[0][1:]}", text)


# UTF-8 read as GBK: the characters that the first two bytes of Chinese characters turn into.
_LEADS = "".join(
    bytes([first, second]).decode("gb18030", "ignore")
    for first in (*range(0xE3, 0xEA), 0xEF)
    for second in range(0x80, 0xC0)
)
# UTF-8 read as cp1252 or Latin-1: what its second and third bytes turn into.
_TRAILS = "\u0080-\u00bf" + bytes(range(0x80, 0xA0)).decode("cp1252", "ignore")
_WRITTEN = r"[\u3000-\u303f\u3040-\u30ff\u3400-\u9fff\uff00-\uffef]"
_GARBLED = re.compile(
    rf"\ufffd|锟斤拷|[{re.escape(_LEADS)}][^\x00-\x7f]{{2,}}"  # 浣犲ソ
    r"|[\u00c2\u00c3][\u0080-\u00bf]|\u00e2[\u20ac\u0080][^\x00-\x7f]"  # Ã©, â€™
    rf"|(?:[\u00e2-\u00e9\u00ef][{_TRAILS}]{{2}}){{2,}}"  # ä½ å¥½
    r"|(?<=[\u3400-\u9fff])[\u0400-\u052f](?![\u0400-\u052f])"  # a lone Cyrillic letter
)


def _ungarbled(run: str) -> str | None:
    """The text that was read with a wrong encoding; None where `run` is no such text."""
    if len(run) == 1 and run != "\ufffd":
        return run.encode().decode("gb18030", "replace")
    for chinese, encode in ((True, _chinese_bytes), (False, _western_bytes)):
        try:
            text = encode(run).decode("utf-8", "replace")
        except UnicodeEncodeError:
            continue
        whole = text.removesuffix("\ufffd")
        if "\ufffd" not in whole and (not chinese or len(re.findall(_WRITTEN, whole)) > 1):
            return text
    return "\ufffd" if "\ufffd" in run or "锟斤拷" in run else None


def _chinese_bytes(run: str) -> bytes:
    return run.encode("gb18030")


def _western_bytes(run: str) -> bytes:
    """Latin-1 and cp1252 in one: the bytes that cp1252 does not know came through as they were."""
    return b"".join(c.encode("latin-1" if c < "\u0100" else "cp1252") for c in run)


def _restore(text: str) -> str:
    """The text as it was; a run of which a part is lost stays as it is."""
    return _GARBLED.sub(
        lambda found: (_ungarbled(found[0]) or "").strip("\ufffd") or found[0], text
    )


def _is_citizen(digits: str) -> bool:
    """Whether 18 digits are a Chinese identity number (GB 11643: the last one is a check)."""
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    total = sum(int(digit) * weight for digit, weight in zip(digits, weights, strict=False))
    return "10X98765432"[total % 11] == digits[17].upper()


Test = Callable[[str], Any]


def _has(first: str, *others: str) -> Test:
    if not others:
        return lambda text: first in text
    return lambda text: first in text or any(word in text for word in others)


class Pattern(NamedTuple):
    """A cause that is seen in one text; `means` decides about what the expression finds.

    may: a quick test that a text has to pass first, because an expression takes its time.
    """

    code: str
    level: str
    may: Test
    regex: str
    reason: str
    fix: str
    mend: Callable[[str], str] | str | None = None  # a word: write it instead
    roles: str = ""  # separated by blanks; all where empty
    private: bool = False
    means: Test = bool
    remove: bool = False


def _not_ascii(text: str) -> bool:
    return not text.isascii()


_DIGITS = re.compile(r"(?a)\d{3}").search
_NO_EXAMPLE = re.compile(r"@(?:[\w-]+\.)*example\.|^git@|^(?:no-?reply|user|name|you|someone)@")
_KEYS = ("sk-", "hf_", "gh", "AKIA", "LTAI", "AIza", "xox", "eyJ", "-----BEGIN ")
_BY_FIX = "remove it, or let --fix do it"
_MASK = "--fix writes a word in its place; ask whether it may be used at all"

PATTERNS = (
    Pattern(
        "control token", "error", _has("<", "["), _TOKEN,
        "a control token inside the text",
        "remove it, or let --fix break it with a space", _disarm, "system user tool text",
    ),
    Pattern(
        "end token in answer", "error", _has("<", "["), _TOKEN,
        "a control token, and the template adds its own", _BY_FIX, _disarm,
        "assistant",
    ),
    Pattern(
        "placeholder", "warning", _has("{{"), r"\{\{ ?[^\W\d][\w.]+ ?\}\}",
        "a placeholder is not filled in", 'fill it: ftlab.read(...).fill(name="...")',
    ),
    Pattern(
        "bidi override", "warning", _not_ascii, r"[\u202d\u202e]",
        "turns the direction of writing around", _BY_FIX,
        lambda text: re.sub(r"[\u202a-\u202e]", "", text),
    ),
    Pattern(
        "mojibake", "warning", _not_ascii, _GARBLED.pattern,
        "text that was read with a wrong encoding",
        "read the original file with the right encoding; --fix restores what it can", _restore,
        means=_ungarbled, remove=True,
    ),
    Pattern(
        "e-mail address", "warning", _has("@"),
        r"[A-Za-z0-9][A-Za-z0-9._%+-]*@(?:[A-Za-z0-9-]+\.)+[A-Za-z]{2,}",
        "an e-mail address", _MASK, "[e-mail]", private=True,
        means=lambda found: not _NO_EXAMPLE.search(found),
    ),
    Pattern(
        "phone number", "warning", _DIGITS,
        r"(?a)(?<![\w.+-])(?:\+?86[ -]?)?1[3-9]\d[ -]?\d{4}[ -]?\d{4}(?!\w|\.\d)"
        r"|(?<![\w)])\+[1-9]\d{0,2}(?:[ .-]?\(?\d{2,4}\)?){3,4}(?!\w)"
        r"|(?<![\w(])\(\d{3}\) \d{3}-\d{4}(?!\w)",
        "a telephone number", _MASK, "[phone]", private=True,
        means=lambda found: sum(c.isdigit() for c in found) > 8,
    ),
    Pattern(
        "ID number", "warning", _DIGITS,
        r"(?a)(?<!\w)[1-9]\d{5}(?:19|20)\d{2}(?:0[1-9]|1[0-2])[0-3]\d{4}[\dXx](?!\w)",
        "an identity number", _MASK, "[ID number]", private=True, means=_is_citizen,
    ),
    Pattern(
        "secret key", "warning", _has(*_KEYS),
        r"(?a)\b(?:sk-[\w-]{20,}|hf_[A-Za-z0-9]{30,}|gh[pousr]_[A-Za-z0-9]{36}"
        r"|github_pat_\w{40,}|AKIA[0-9A-Z]{16}|LTAI[A-Za-z0-9]{12,}|AIza[\w-]{35}"
        r"|xox[abprs]-[\w-]{10,}|eyJ[\w-]{15,}\.eyJ[\w-]{15,}\.[\w-]{15,})"
        r"|-----BEGIN [A-Z ]*PRIVATE KEY-----",
        "a key that opens something", _MASK, "[secret key]", private=True,
    ),
    Pattern(
        "invisible character", "note", _not_ascii, r"[\u00ad\u200b\u2060\ufeff]",
        "cannot be seen", _BY_FIX, "",
    ),
    Pattern(
        "HTML", "note", _has("<"),
        r"<(?:script|iframe|img|svg|style|body|div|span|table|a|br|p)\b[^<>]*>",
        "HTML inside the text (ftlab shows it escaped)", "keep it if the model should write it",
    ),
)  # fmt: skip


def replaced(pattern: Pattern, text: str) -> str:
    """The text with the pattern's word in place of what it finds."""
    word = str(pattern.mend)
    return re.sub(pattern.regex, lambda f: word if pattern.means(f[0]) else f[0], text)


def masked(text: str) -> str:
    """The text without personal data and keys."""
    for pattern in PATTERNS:
        if pattern.private and pattern.may(text):
            text = replaced(pattern, text)
    return text


# name -> its letters, and how many Latin letters say as much as one of them
SCRIPTS = {
    name: (re.compile(f"[{letters}]+"), weight)
    for name, letters, weight in (
        ("Latin", "A-Za-z\u00c0-\u024f", 1),
        ("Han", "\u3400-\u9fff\U00020000-\U0002ffff", 3),
        ("Kana", "\u3040-\u30ff", 3),
        ("Hangul", "\uac00-\ud7af", 3),
        ("Cyrillic", "\u0400-\u052f", 1),
        ("Greek", "\u0370-\u03ff", 1),
        ("Arabic", "\u0600-\u06ff", 1),
        ("Hebrew", "\u0590-\u05ff", 1),
        ("Devanagari", "\u0900-\u097f", 1),
        ("Thai", "\u0e00-\u0e7f", 1),
    )
}
_OTHERS = re.compile("[\u0370-\u1fff\u3040-\u30ff\uac00-\ud7af]")


def script(text: str, least: int = 1) -> str:
    """The script of four letters in five, "mixed", or "none" below `least` letters."""
    sample = text[:200]
    names = ["Latin"] if sample.isascii() else ["Latin", "Han"]
    weights = dict.fromkeys(SCRIPTS if _OTHERS.search(sample) else names, 0)
    for name in weights:
        letters, weight = SCRIPTS[name]
        weights[name] = weight * len("".join(letters.findall(sample)))
    if 8 * weights.get("Kana", 0) > weights.get("Han", 0):  # Japanese writes both
        weights["Kana"] += weights.pop("Han")
    total, best = sum(weights.values()), max(weights, key=weights.__getitem__)
    if total < least:
        return "none"
    return best if weights[best] >= 0.8 * total else "mixed"
