"""Model and rows -> a score with its 95 % interval.

Taught in notebooks/05_evaluation_first.ipynb.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerBase

from ftlab.chat import encode
from ftlab.chat.calls import calls_text, parse_calls
from ftlab.errors import DataError, RecipeError
from ftlab.generate import evaluating, generate
from ftlab.tokens import IGNORED

Row = dict[str, Any]
Metric = Callable[[str, str, Row], float]

RESAMPLES = 2000
# A model that does not stop must not look right because it was cut in time.
_SPARE_TOKENS = 8


@dataclass(repr=False)
class Scores:
    """A score over rows: ``value`` with its 95 % interval ``low`` .. ``high``.

    Scores that are all 0 or 1 are a proportion: ``value`` is the share, the interval is Wilson's.
    Others get a percentile bootstrap over rows. ``rows`` holds, for each row: prompt, reference,
    prediction, score, source, extra; for perplexity the score is the mean loss (nats a token) and
    ``tokens`` counts the tokens behind it.
    """

    metric: str
    rows: list[Row]
    seed: int = 0
    value: float = field(init=False)
    low: float = field(init=False)
    high: float = field(init=False)

    def __post_init__(self) -> None:
        if not self.rows:
            raise DataError(f"{self.metric}: there are no rows to score.")
        self._scores = np.array([row["score"] for row in self.rows], dtype=float)
        self._tokens = np.array([row.get("tokens", 1) for row in self.rows])
        self.value = self.statistic(np.arange(self.n))
        if self.is_proportion:
            self.low, self.high = wilson(int(self._scores.sum()), self.n)
        else:
            self.low, self.high = bootstrap(self.statistic, self.n, seed=self.seed)

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(self.rows)

    @property
    def is_proportion(self) -> bool:
        """Whether every row is either right (1) or wrong (0)."""
        return self.metric != "perplexity" and bool(np.isin(self._scores, (0, 1)).all())

    def statistic(self, chosen: np.ndarray) -> float:
        """The score of the rows at these places (a place may occur twice)."""
        weights = self._tokens[chosen]
        mean = float((self._scores[chosen] * weights).sum() / weights.sum())
        return math.exp(mean) if self.metric == "perplexity" else mean

    def by(self, key: str) -> dict[str, Scores]:
        """One Scores for each value of a row's extra key, such as ``"language"``."""
        groups: dict[str, list[Row]] = {}
        for row in self.rows:
            if key not in row["extra"]:
                known = ", ".join(row["extra"]) or "none"
                raise DataError(f"{row['source']}: no extra key {key!r} (this row has: {known}).")
            groups.setdefault(str(row["extra"][key]), []).append(row)
        return {name: Scores(self.metric, groups[name], self.seed) for name in sorted(groups)}

    def __str__(self) -> str:
        if self.is_proportion:
            shown = f"{100 * self.value:.1f} % [{100 * self.low:.1f}, {100 * self.high:.1f}]"
        else:
            shown = f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"
        return f"{shown}, n = {self.n}"

    def __repr__(self) -> str:
        return f"{self.metric}: {self}"

    def _repr_html_(self, most: int = 5) -> str:
        """The score and the first wrong rows (the worst ones, where no row is simply wrong)."""
        sign = -1 if self.metric == "perplexity" else 1
        worst = sorted(self.rows, key=lambda row: sign * row["score"])
        if self.is_proportion:
            worst = [row for row in worst if row["score"] == 0]
        empty = "prediction" if self.metric == "perplexity" else "score"
        columns = ["prompt", "reference", "prediction", "score"]
        if self.is_proportion or self.metric == "perplexity":
            columns.remove(empty)
        head = "".join(f"<th>{column}</th>" for column in columns)
        lines = ["".join(_cell(row[column]) for column in columns) for row in worst[:most]]
        table = "".join(f"<tr>{line}</tr>" for line in [head, *lines])
        what = f"wrong: {len(worst)} of {self.n}" if self.is_proportion else "the worst rows"
        return f"<b>{escape(self.metric)}</b>: {self}<br>{what}<table>{table}</table>"


@dataclass(frozen=True)
class Difference:
    """How much higher the second score is, with a 95 % interval from the same rows."""

    metric: str
    value: float
    low: float
    high: float
    n: int
    points: bool

    def __str__(self) -> str:
        scale, digits, unit = (100, 1, " points") if self.points else (1, 3, "")
        value, low, high = (f"{scale * x:+.{digits}f}" for x in (self.value, self.low, self.high))
        return f"{value}{unit} [{low}, {high}], n = {self.n}"


def evaluate(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    data: Iterable[Row],
    *,
    metric: str | Metric = "exact_match",
    max_new_tokens: int | None = None,
    batch_size: int = 64,
    seed: int = 0,
    enable_thinking: bool | None = None,
) -> Scores:
    """Score the model on rows; the last assistant turn of a row is the reference.

    ``"exact_match"``: everything before the reference is the chat prompt (with the row's tools),
    the greedy answer must equal the reference after ``normalize``; tool calls are equal when names
    and arguments are. ``"tool_call"``: only the calls count; ``"valid_json"``: they can be parsed.
    ``"cloze"``: the user's text is continued as plain text and must begin with the reference.
    ``"perplexity"``: exp of the mean loss over the tokens that ``encode`` would train. A function
    ``(prediction, reference, row) -> float`` scores chat answers its own way.
    ``max_new_tokens`` defaults to the longest reference and 8 tokens more; ``seed`` is the
    bootstrap's. Raises DataError when a row has no assistant answer (naming its
    source) or there are no rows, RecipeError for an unknown metric.
    """
    rows = list(data)
    if not rows:
        raise DataError("evaluate got no rows: the file is empty or a filter left nothing.")
    if metric == "perplexity":
        return Scores("perplexity", _perplexity(model, tokenizer, rows, batch_size), seed)
    score = METRICS.get(metric, metric)  # type: ignore[arg-type]
    if not callable(score):
        known = ", ".join(METRICS)
        raise RecipeError(f"metric={metric!r}: use {known}, perplexity or a function.")
    prompts: list[Any] = [_question(row, place)[0] for place, row in enumerate(rows)]
    if metric == "cloze":
        prompts = [messages[-1]["content"] for messages in prompts]
    elif any(row.get("tools") for row in rows):
        pairs = zip(prompts, rows, strict=True)
        prompts = [{"messages": asked, "tools": row.get("tools")} for asked, row in pairs]
    scored = [_kept(row, place) for place, row in enumerate(rows)]
    if max_new_tokens is None:
        max_new_tokens = _longest(tokenizer, scored) + _SPARE_TOKENS
    predictions = generate(
        model, tokenizer, prompts, max_new_tokens=max_new_tokens, batch_size=batch_size,
        enable_thinking=enable_thinking,
    )  # fmt: skip
    for row, kept, prediction in zip(rows, scored, predictions, strict=True):
        kept["prediction"] = prediction
        kept["score"] = float(score(prediction, kept["reference"], row))
    name = metric if isinstance(metric, str) else getattr(metric, "__name__", "custom")
    return Scores(name, scored, seed)


def compare(a: Scores, b: Scores) -> Difference:
    """How much higher ``b`` scores than ``a`` on the same rows: b - a, with a paired interval.

    Pairing removes what makes a row easy or hard for both. The interval is Newcombe's where each
    row is right or wrong, otherwise the bootstrap's. Raises DataError when metric or rows differ.
    """
    asked_a, asked_b = ([(r["prompt"], r["reference"]) for r in scores.rows] for scores in (a, b))
    if a.metric != b.metric or asked_a != asked_b:
        raise DataError(
            f"compare needs one metric on the same rows in the same order: got {a.metric} on "
            f"{a.n} rows and {b.metric} on {b.n} rows."
        )

    def difference(chosen: np.ndarray) -> float:
        return b.statistic(chosen) - a.statistic(chosen)

    points = a.is_proportion and b.is_proportion
    if points:
        low, high = newcombe(a._scores, b._scores)
    else:
        low, high = bootstrap(difference, a.n, seed=a.seed)
    return Difference(a.metric, b.value - a.value, low, high, a.n, points)


def wilson(successes: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval for a proportion (Wilson 1927); holds at 0 % and 100 % as well.

    >>> low, high = wilson(9, 10)
    >>> f"{low:.3f} {high:.3f}"
    '0.596 0.982'
    """
    z = NormalDist().inv_cdf(0.5 + level / 2)
    share, spread = successes / n, z * z / n
    center = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / n + spread / (4 * n)) / (1 + spread)
    # Rounding may leave a share of 0 or 1 outside by its last digit.
    return max(0.0, min(share, center - half)), min(1.0, max(share, center + half))


def newcombe(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """95 % interval of mean(b) - mean(a), both 0 or 1 in each row [n] (Newcombe 1998, method 10).

    The paired bootstrap is far too sure where only a few rows differ; this is not.

    >>> low, high = newcombe(np.ones(80), np.ones(80))
    >>> round(low, 3), round(high, 3)
    (-0.046, 0.046)
    """
    n, p, q = len(a), float(a.mean()), float(b.mean())
    (p_low, p_high), (q_low, q_high) = wilson(int(a.sum()), n), wilson(int(b.sum()), n)
    both, neither = int((a * b).sum()), int(((1 - a) * (1 - b)).sum())
    only_a, only_b = int(a.sum()) - both, int(b.sum()) - both
    excess: float = both * neither - only_a * only_b
    excess = max(excess - n / 2, 0) if excess > 0 else excess
    margins = a.sum() * (n - a.sum()) * b.sum() * (n - b.sum())
    phi = excess / float(np.sqrt(margins)) if margins else 0.0

    def width(x: float, y: float) -> float:
        return float(np.sqrt(x * x - 2 * phi * x * y + y * y))

    below, above = width(q - q_low, p_high - p), width(q_high - q, p - p_low)
    return q - p - below, q - p + above


def bootstrap(
    statistic: Callable[[np.ndarray], float], n: int, *, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap (Efron 1979): the middle ``level`` of ``statistic`` over resampled rows.

    ``statistic`` gets the places of ``n`` rows drawn with replacement, 2,000 times.
    """
    rng = np.random.default_rng(seed)
    values = [statistic(rng.integers(0, n, n)) for _ in range(RESAMPLES)]
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def normalize(text: str) -> str:
    """What exact match forgives, and nothing else.

    A leading <think>...</think> block, full-width forms (Unicode NFKC), upper and lower case, extra
    white space, and one final full stop or exclamation mark (``.`` ``。`` ``!``). Words,
    their order, articles, inner punctuation and a final question mark count.

    >>> normalize(" The  Baker lives here。"), normalize("12!")
    ('the baker lives here', '12')
    """
    text = text.rpartition("</think>")[2]
    text = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return text[:-1].rstrip() if text.endswith((".", "。", "!")) else text


def exact_match(prediction: str, reference: str, row: Row | None = None) -> float:
    """1.0 if both are equal after ``normalize`` (or, where the reference calls tools, make the same
    calls), else 0.0."""
    if "<tool_call>" in reference:
        return tool_call(prediction, reference)
    return float(normalize(prediction) == normalize(reference))


def tool_call(prediction: str, reference: str, row: Row | None = None) -> float:
    """1.0 if both make the same calls (names, arguments, order; or none at all), else 0.0."""
    return float(parse_calls(prediction) == (parse_calls(reference) or []))


def valid_json(prediction: str, reference: str, row: Row | None = None) -> float:
    """1.0 if all tool calls can be parsed, and there is one where the reference has one."""
    calls = parse_calls(prediction)
    return float(calls is not None and (bool(calls) or not parse_calls(reference)))


def cloze(prediction: str, reference: str, row: Row | None = None) -> float:
    """1.0 if the prediction begins with the reference and not with a longer word ("bakery")."""
    said, wanted = normalize(prediction), normalize(reference)
    following = said[len(wanted) : len(wanted) + 1]
    # Chinese has no spaces between words, so only Latin letters and digits make a word longer.
    longer = wanted[-1:].isascii() and following.isascii() and following.isalnum()
    return float(said.startswith(wanted) and not longer)


METRICS: dict[str, Metric] = {
    "exact_match": exact_match, "cloze": cloze, "tool_call": tool_call, "valid_json": valid_json,
}  # fmt: skip


def _question(row: Row, place: int) -> tuple[list[Row], str]:
    """The messages before the last assistant turn, and what that turn says."""
    messages = row.get("messages") or []
    turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    answer = messages[turns[-1]] if turns and turns[-1] > 0 else {}
    parts = [answer.get("content"), calls_text(answer.get("tool_calls") or [])]
    if reference := "\n".join(part for part in parts if part):
        return messages[: turns[-1]], reference
    missing = "question before the answer" if turns == [0] else "assistant answer"
    raise DataError(f"{_source(row, place)}: no {missing}, so nothing to score. Leave the row out.")


def _source(row: Row, place: int) -> str:
    return str(row.get("source", f"row {place}"))


def _kept(row: Row, place: int) -> Row:
    """What Scores keeps of a row."""
    asked, reference = ([], row["text"]) if "text" in row else _question(row, place)
    return {
        "prompt": "\n".join(_said(message) for message in asked),
        "reference": reference,
        "prediction": None,
        "source": _source(row, place),
        "extra": dict(row.get("extra") or {}),
    }


def _said(message: Row) -> str:
    return message.get("content") or calls_text(message.get("tool_calls") or [])


def _longest(tokenizer: PreTrainedTokenizerBase, scored: list[Row]) -> int:
    references = [row["reference"] for row in scored]
    return max(map(len, tokenizer(references, add_special_tokens=False)["input_ids"]))


def _perplexity(
    model: Any, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], batch_size: int
) -> list[Row]:
    examples = [encode(tokenizer, row, with_tokens=False) for row in rows]
    order = sorted(range(len(rows)), key=lambda i: len(examples[i]))
    scored: list[Row] = [{}] * len(rows)
    with evaluating(model):
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            width = max(len(examples[i]) for i in chosen)
            ids = torch.zeros(len(chosen), width, dtype=torch.long)
            mask = torch.zeros_like(ids)
            for line, i in enumerate(chosen):
                ids[line, : len(examples[i])] = torch.tensor(examples[i].input_ids)
                mask[line, : len(examples[i])] = 1
            output = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device))
            for i, logits in zip(chosen, output.logits[:, -width:], strict=True):
                labels = torch.tensor(examples[i].labels, device=logits.device)
                # Position t predicts token t + 1, so the last logits and the first label fall out.
                guesses = logits[: len(labels) - 1].float()
                loss = cross_entropy(guesses, labels[1:], ignore_index=IGNORED)
                tokens = int((labels[1:] != IGNORED).sum())
                scored[i] = _kept(rows[i], i) | {"score": float(loss), "tokens": tokens}
    return scored


def _cell(value: Any, width: int = 80) -> str:
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    return f"<td>{escape(text if len(text) <= width else text[: width - 1] + '…')}</td>"
