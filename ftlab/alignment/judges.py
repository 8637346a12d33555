"""Who says how good an answer is: a rule, a reward model, or a chat model that compares two.

Taught in notebooks/12_reward_model_and_ppo.ipynb and notebooks/16_evaluation.ipynb.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ftlab.alignment import asking
from ftlab.alignment.rewards import rewards
from ftlab.chat import asked, encode
from ftlab.errors import DataError, RecipeError
from ftlab.evaluate import exact_match as matches
from ftlab.evaluate import normalize
from ftlab.generate import generate
from ftlab.models import gives_scores, load

Row = dict[str, Any]
Rule = Callable[..., float]  # (answer) or (answer, row) -> score


@dataclass(frozen=True)
class Verdict:
    """Which of two answers is better: 1 the first, 0 the second, 0.5 neither, None unreadable.

    ``orders``: what was said with the first answer shown first, and with it shown second (the same
    scale), where the judge was asked so.
    """

    value: float | None
    orders: tuple[float | None, ...] = ()


class Scorer:
    """A judge that gives each answer a score by itself."""

    name: str
    margin: float = 0.0  # scores closer than this are a tie

    def scores(self, rows: Sequence[Row], answers: Sequence[str]) -> list[float]:
        """One score for each answer; more is better."""
        raise NotImplementedError

    def compare(
        self, rows: Sequence[Row], first: Sequence[str], second: Sequence[str]
    ) -> list[Verdict]:
        """One verdict for each row."""
        both = self.scores([*rows, *rows], [*first, *second])
        pairs = zip(both[: len(rows)], both[len(rows) :], strict=True)
        return [Verdict(0.5 if abs(a - b) <= self.margin else float(a > b)) for a, b in pairs]


class RuleJudge(Scorer):
    """A function (answer, row) -> score, or (answer) -> score."""

    def __init__(self, rule: Rule, name: str | None = None, margin: float = 0.0) -> None:
        self.margin = margin
        self.rule, self.name = rule, str(name or getattr(rule, "__name__", "rule"))
        self.alone = len(inspect.signature(rule).parameters) == 1

    def scores(self, rows: Sequence[Row], answers: Sequence[str]) -> list[float]:
        """What the function says of each answer."""
        if self.alone:
            return [float(self.rule(answer)) for answer in answers]
        return [float(self.rule(a, row)) for a, row in zip(answers, rows, strict=True)]


class RewardJudge(Scorer):
    """A reward model: it reads the conversation with the answer, as ``ftlab.encode`` writes it."""

    def __init__(
        self, model: Any, tokenizer: Any, name: str = "reward model", margin: float = 0.0
    ) -> None:
        self.model, self.tokenizer, self.name, self.margin = model, tokenizer, name, margin

    def scores(self, rows: Sequence[Row], answers: Sequence[str]) -> list[float]:
        """The reward of each answer."""
        said = [
            {"messages": [*asked(row), {"role": "assistant", "content": answer}],
             "tools": row.get("tools")}
            for row, answer in zip(rows, answers, strict=True)
        ]  # fmt: skip
        examples = [encode(self.tokenizer, row, with_tokens=False) for row in said]
        return rewards(self.model, examples, pad_id=self.tokenizer.pad_token_id)


class ModelJudge:
    """A chat model that is shown both answers, in both orders unless ``swap`` is off.

    Where the two orders contradict each other nobody has won: the model chose the place, not the
    answer. A reply that names neither A nor B nor a tie is unreadable (see `asking`).
    """

    def __init__(
        self,
        ask: asking.Ask,
        name: str,
        *,
        criterion: str = "better",
        swap: bool = True,
        template: str = asking.TEMPLATE,
    ) -> None:
        self.ask, self.name, self.swap = ask, name, swap
        self.criterion, self.template = criterion, template

    def compare(
        self, rows: Sequence[Row], first: Sequence[str], second: Sequence[str]
    ) -> list[Verdict]:
        """One verdict for each row, from one or two replies."""
        questions = [asking.said(asked(row)) for row in rows]
        shown = list(zip(questions, first, second, strict=True))
        if self.swap:
            shown += zip(questions, second, first, strict=True)
        prompts = [
            asking.prompt(self.template, question, a, b, self.criterion) for question, a, b in shown
        ]
        found = [asking.verdict(reply) for reply in self.ask(prompts)]
        if not self.swap:
            return [Verdict(value, (value,)) for value in found]
        turned = [None if value is None else 1 - value for value in found[len(rows) :]]
        return [_joined(pair) for pair in zip(found[: len(rows)], turned, strict=True)]


Judge = Scorer | ModelJudge


def judge(
    what: Any,
    tokenizer: Any = None,
    *,
    model: str | None = None,
    api_key: str | None = None,
    **options: Any,
) -> Judge:
    """A judge from a rule's name (``RULES``) or function, a model, a folder, or an address.

    A reward model (with its tokenizer, or its folder) scores answers; any other model compares
    two. ``"http://..."`` is an OpenAI-compatible server that has ``model``; only naming one
    reaches the network. ``options``: ``name``, ``margin`` (scores no further apart are a tie)
    of a judge that scores; ``name``, ``criterion="more polite"``, ``swap=False``, ``template`` of
    one that is asked. Raises RecipeError, ModelError.

    >>> judge("polite").scores([{}], ["With pleasure. He lives here. You are welcome."])
    [1.0]
    """
    if isinstance(what, Scorer | ModelJudge):
        return what
    if isinstance(what, str) and what in RULES:
        return RuleJudge(RULES[what], **{"name": what, **options})
    if isinstance(what, str) and what.startswith(("http://", "https://")):
        if not model:
            raise RecipeError(f"judge({what!r}): which model there? Pass model='...'.")
        return ModelJudge(asking.server(what, model, api_key), **{"name": model, **options})
    if isinstance(what, torch.nn.Module):
        return _from_model(what, tokenizer, options)
    if callable(what):
        return RuleJudge(what, **options)
    found, tokenizer = _load(str(what))
    return _from_model(found, tokenizer, options, Path(str(what)).name)


def _from_model(
    model: Any, tokenizer: Any, options: dict[str, Any], name: str | None = None
) -> Judge:
    if tokenizer is None:
        raise RecipeError("judge(model): pass its tokenizer too.")
    if gives_scores(model.config):
        return RewardJudge(model, tokenizer, **{"name": name or "reward model", **options})

    def ask(prompts: Sequence[list[Row]]) -> list[str]:
        return generate(model, tokenizer, prompts, max_new_tokens=16, enable_thinking=False)

    return ModelJudge(ask, **{"name": name or type(model).__name__, **options})


def _load(name: str) -> tuple[Any, Any]:
    """The model of a folder, of an adapter's folder on its base, or of a hub."""
    config = Path(name) / "adapter_config.json"
    if not config.is_file():
        if not Path(name).is_dir() and "/" not in name and name != "tiny":
            known = ", ".join(RULES)
            raise RecipeError(f"{name!r} is no rule ({known}) and no folder of a model.")
        return load(name)
    base = json.loads(config.read_text(encoding="utf-8")).get("base_model_name_or_path")
    record = Path(name) / "base.json"
    if record.is_file():
        base = json.loads(record.read_text(encoding="utf-8")).get("model") or base
    if not base:
        raise RecipeError(f"{name}: names no base model. Pass the loaded model and its tokenizer.")
    return load(base, adapter=name)


def _joined(orders: tuple[float | None, ...]) -> Verdict:
    """One verdict from both orders."""
    if None in orders:
        return Verdict(None, orders)
    return Verdict(orders[0] if orders[0] == orders[1] else 0.5, orders)


def as_judge(what: Any) -> Judge:
    """The judge, or what ``judge`` makes of it."""
    return what if isinstance(what, Scorer | ModelJudge) else judge(what)


def reference_answer(row: Row) -> str:
    """The answer that a row holds: its last assistant turn, or the one that is preferred."""
    turns = row.get("messages") or row.get("chosen") or row.get("completion") or []
    said = asking.last([turn for turn in turns if turn["role"] == "assistant"])
    if not said:
        raise DataError(f"{row.get('source', 'row')}: no answer to compare with.")
    return said


def exact_match(answer: str, row: Row) -> float:
    """1 where the answer is the row's own (see ``ftlab.evaluate.normalize``)."""
    return matches(answer, reference_answer(row))


def contains(answer: str, row: Row) -> float:
    """1 where the row's own answer stands in it, whatever is around."""
    return float(normalize(reference_answer(row)) in normalize(answer))


def polite(answer: str) -> float:
    """Half for a polite opening and half for a polite closing, as the small world knows them."""
    from ftlab.world.places import MANNERS

    text = answer.strip()
    opened = any(text.startswith(opening.strip()) for side in MANNERS for opening, _ in side)
    closed = any(text.endswith(closing.strip()) for side in MANNERS for _, closing in side)
    return (opened + closed) / 2


def format_think(answer: str) -> float:
    """1 for one <think>...</think> block, with something in it and an answer after it."""
    head, opened, rest = answer.strip().partition("<think>")
    inner, closed, after = rest.partition("</think>")
    whole = opened and closed and not head and inner.strip() and after.strip()
    return float(bool(whole) and "<think>" not in inner and "think>" not in after)


# name -> rule, for `judge` and for the recipe's reward_funcs
RULES: dict[str, Rule] = {
    "exact_match": exact_match, "contains": contains, "polite": polite,
    "format_think": format_think,
}  # fmt: skip
