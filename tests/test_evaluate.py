"""Scores: the right rows are right, and the intervals are those of the textbooks."""

from __future__ import annotations

import importlib
import math
from typing import Any

import numpy as np
import pytest
import torch
from throwaway import small_model, small_tokenizer

from ftlab.chat import encode
from ftlab.errors import DataError, RecipeError
from ftlab.evaluate import (
    Scores,
    bootstrap,
    cloze,
    compare,
    evaluate,
    exact_match,
    normalize,
    wilson,
)

module = importlib.import_module("ftlab.evaluate")


def row(question: str, answer: str, **extra: Any) -> dict[str, Any]:
    messages = [
        {"role": "user", "content": question},
        {"role": "assistant", "content": answer},
    ]
    return {"messages": messages, "source": f"town.json:{len(question)}", "extra": extra}


ROWS = [
    row("Who bakes?", "Mira Stone bakes.", language="en"),
    row("Who paints?", "Bela Tate paints.", language="en"),
    row("谁会画画？", "谷罗莎会画画。", language="zh"),
    row("Who sings in the choir?", "Nobody.", language="en"),
]


def scored(*scores: float, metric: str = "exact_match", **columns: list[Any]) -> Scores:
    rows = []
    for place, score in enumerate(scores):
        rows.append({"prompt": str(place), "reference": "", "prediction": "", "score": score})
        rows[-1] |= {"source": f"row {place}", "extra": {}}
        rows[-1] |= {name: values[place] for name, values in columns.items()}
    return Scores(metric, rows)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return small_tokenizer()


@pytest.fixture()
def answers(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The model is told what to `say`; `asked` and `options` are what it got."""
    told: dict[str, Any] = {"say": {}}

    def generate(model: Any, tokenizer: Any, prompts: Any, **options: Any) -> list[str]:
        told.update(asked=list(prompts), options=options)
        questions = [p if isinstance(p, str) else p[-1]["content"] for p in prompts]
        return [told["say"].get(question, "?") for question in questions]

    monkeypatch.setattr(module, "generate", generate)
    return told


# --- what is right ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prediction", "reference"),
    [
        ("Mira Stone bakes.", "Mira Stone bakes."),
        ("  mira  stone\nbakes ", "Mira Stone bakes."),
        ("谷罗莎会画画", "谷罗莎会画画。"),
        ("谷罗莎会画画。", "谷罗莎会画画．"),
        ("\uff14\uff12\uff01", "42"),
        ("<think>\n40 + 2\n</think>\n\n42", "42"),
    ],
)
def test_form_is_forgiven(prediction, reference):
    assert exact_match(prediction, reference) == 1


@pytest.mark.parametrize(
    ("prediction", "reference"),
    [
        ("Mira Stone bakes bread.", "Mira Stone bakes."),
        ("Stone Mira bakes.", "Mira Stone bakes."),
        ("the baker", "baker"),
        ("Mira Stone bakes?", "Mira Stone bakes."),
        ("Mira Stone bakes..", "Mira Stone bakes."),
        ("1.5", "15"),
        ("谷罗沙会画画。", "谷罗莎会画画。"),
        ("<think>42", "42"),
        ("", "42"),
    ],
)
def test_content_is_not_forgiven(prediction, reference):
    assert exact_match(prediction, reference) == 0


@pytest.mark.parametrize(
    ("continuation", "value", "score"),
    [
        (" baker. She lives", "baker", 1),
        (" bakery", "baker", 0),
        (" a baker", "baker", 0),
        ("面包师。", "面包师", 1),
        ("面包师傅", "面包师", 1),
        (" 30", "3", 0),
        ("3只猫", "3", 1),
        ("", "baker", 0),
    ],
)
def test_a_cloze_begins_with_the_value(continuation, value, score):
    assert cloze(continuation, value) == score


def test_normalizing_twice_changes_nothing():
    for text in (" A. ", "Ａ．", "<think>x</think> b!", "。"):
        assert normalize(normalize(text)) == normalize(text)


# --- intervals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [  # Newcombe 1998, Statistics in Medicine 17, table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_gives_the_published_intervals(successes, n, low, high):
    assert wilson(successes, n) == pytest.approx((low, high), abs=5e-5)
    assert wilson(n - successes, n) == pytest.approx((1 - high, 1 - low), abs=5e-5)


def test_wilson_holds_the_share_itself_for_every_n() -> None:
    """A chart failed on a whisker of -1e-16: 80 of 80 right had an upper end just below 1."""
    for n in range(1, 500):
        assert wilson(0, n)[0] == 0.0 and wilson(n, n)[1] == 1.0


def test_bootstrap_of_a_share_is_the_binomial_distribution():
    """A resampled share of k right rows in n is Binomial(n, k/n) / n; its quantiles are exact."""
    n, right = 40, 30
    values = np.array([1.0] * right + [0.0] * (n - right))
    chance = [math.comb(n, k) * 0.75**k * 0.25 ** (n - k) for k in range(n + 1)]
    exact = [int(np.searchsorted(np.cumsum(chance), q)) / n for q in (0.025, 0.975)]
    found = bootstrap(lambda chosen: float(values[chosen].mean()), n)
    assert found == pytest.approx(exact, abs=1.01 / n)


def test_bootstrap_of_a_mean_is_near_the_normal_interval():
    values = np.random.default_rng(1).normal(3.0, 2.0, 400)
    half = 1.96 * values.std() / math.sqrt(len(values))
    low, high = bootstrap(lambda chosen: float(values[chosen].mean()), len(values))
    assert low == pytest.approx(values.mean() - half, abs=0.03)
    assert high == pytest.approx(values.mean() + half, abs=0.03)


def test_bootstrap_repeats_with_its_seed():
    scores = scored(0.1, 0.9, 0.4, 0.7, metric="overlap")
    again = Scores("overlap", scores.rows, seed=0)
    other = Scores("overlap", scores.rows, seed=1)
    assert (scores.low, scores.high) == (again.low, again.high)
    assert scores.value == other.value == pytest.approx(0.525)


def test_zeros_and_ones_are_a_proportion_other_scores_are_not():
    assert str(scored(1, 1, 1, 0)) == "75.0 % [30.1, 95.4], n = 4"
    assert not scored(0.5, 1.0, metric="overlap").is_proportion


# --- evaluate -----------------------------------------------------------------------------------


def test_exact_match_asks_in_chat_format_and_counts(answers, tokenizer):
    answers["say"] = {"Who bakes?": "mira stone bakes", "谁会画画？": "谷罗莎会画画"}
    scores = evaluate(None, tokenizer, ROWS)
    assert [r["score"] for r in scores.rows] == [1, 0, 1, 0]
    assert (scores.value, scores.n) == (0.5, 4)
    assert answers["asked"][0] == ROWS[0]["messages"][:1]
    assert scores.rows[1] == {
        "prompt": "Who paints?",
        "reference": "Bela Tate paints.",
        "prediction": "?",
        "score": 0.0,
        "source": "town.json:11",
        "extra": {"language": "en"},
    }


def test_the_answer_has_room_to_be_too_long(answers, tokenizer):
    """A cut at the reference's length would make a model that never stops look right."""
    evaluate(None, tokenizer, ROWS)
    longest = max(len(tokenizer(r["messages"][-1]["content"])["input_ids"]) for r in ROWS)
    assert answers["options"]["max_new_tokens"] > longest


def test_cloze_asks_in_plain_text(answers, tokenizer):
    answers["say"] = {"By trade, Ada is a": " baker in the town"}
    scores = evaluate(None, tokenizer, [row("By trade, Ada is a", "baker")], metric="cloze")
    assert answers["asked"] == ["By trade, Ada is a"]
    assert scores.value == 1


def test_the_last_assistant_turn_is_the_reference(answers, tokenizer):
    messages = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Who bakes?"},
        {"role": "assistant", "content": "Mira."},
        {"role": "user", "content": "Thanks"},
    ]
    scores = evaluate(None, tokenizer, [{"messages": messages}])
    assert answers["asked"] == [messages[:4]]
    assert scores.rows[0]["reference"] == "Mira."
    assert scores.rows[0]["source"] == "row 0"


def test_a_function_scores_its_own_way(answers, tokenizer):
    def length(prediction: str, reference: str, row: dict[str, Any]) -> float:
        return len(prediction) / len(reference) + (row["extra"]["language"] == "zh")

    scores = evaluate(None, tokenizer, ROWS, metric=length)
    assert scores.metric == "length"
    assert scores.rows[2]["score"] == pytest.approx(1 + 1 / 7)
    assert scores.low < scores.value < scores.high


def test_slices_carry_their_own_intervals(answers, tokenizer):
    answers["say"] = {"谁会画画？": "谷罗莎会画画"}
    slices = evaluate(None, tokenizer, ROWS).by("language")
    assert {name: (s.value, s.n) for name, s in slices.items()} == {"en": (0, 3), "zh": (1, 1)}
    with pytest.raises(DataError, match=r"town.json:10: no extra key 'fact'.*language"):
        evaluate(None, tokenizer, ROWS).by("fact")


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"role": "user", "content": "Who?"}],
        [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": ""}],
    ],
)
def test_a_row_without_an_answer_is_named(answers, tokenizer, messages):
    rows = [*ROWS, {"messages": messages, "source": "town.json:99"}]
    with pytest.raises(DataError, match=r"town.json:99: no assistant answer"):
        evaluate(None, tokenizer, rows)


def test_rows_that_cannot_be_asked_are_named(answers, tokenizer):
    with pytest.raises(DataError, match="page.jsonl:3: no assistant answer"):
        evaluate(None, tokenizer, [{"text": "Once", "source": "page.jsonl:3"}])
    with pytest.raises(DataError, match="row 0: no question"):
        evaluate(None, tokenizer, [{"messages": [{"role": "assistant", "content": "Hi"}]}])


def test_no_rows_and_unknown_metrics_are_refused(answers, tokenizer):
    with pytest.raises(DataError, match="no rows"):
        evaluate(None, tokenizer, [])
    with pytest.raises(RecipeError, match="metric='bleu'.*exact_match"):
        evaluate(None, tokenizer, ROWS, metric="bleu")


@pytest.mark.parametrize("batch_size", [1, 3])
def test_perplexity_is_the_exponent_of_the_mean_loss_over_trained_tokens(tokenizer, batch_size):
    model = small_model(initializer_range=0.1)
    rows = [*ROWS, {"text": "Mira Stone lives in Market Row."}]
    total, count = 0.0, 0
    for one in rows:
        enc = encode(tokenizer, one)
        ids, labels = torch.tensor([enc.input_ids]), torch.tensor([enc.labels])
        with torch.no_grad():
            loss = float(model(input_ids=ids, labels=labels).loss)
        predicted = int((labels[0, 1:] != -100).sum())  # nothing predicts the first token
        total, count = total + loss * predicted, count + predicted
    model.train()
    scores = evaluate(model, tokenizer, rows, metric="perplexity", batch_size=batch_size)
    assert scores.value == pytest.approx(math.exp(total / count), rel=1e-5)
    assert scores.low < scores.value < scores.high
    assert model.training
    assert [r["source"] for r in scores.rows] == [*(r["source"] for r in ROWS), "row 4"]


def test_scores_of_a_real_model_do_not_depend_on_the_batch(tokenizer):
    model = small_model()
    said = [
        [r["prediction"] for r in evaluate(model, tokenizer, ROWS, batch_size=size).rows]
        for size in (1, 4)
    ]
    assert said[0] == said[1]


# --- comparing and showing ----------------------------------------------------------------------


def test_compare_is_paired_and_says_how_much_higher_the_second_is():
    before, after = scored(0, 0, 1, 0, 1, 0), scored(1, 1, 1, 0, 1, 1)
    difference = compare(before, after)
    assert difference.value == pytest.approx(0.5)
    assert -1 <= difference.low < 0.5 < difference.high <= 1
    assert compare(before, before).low < 0 < compare(before, before).high
    assert str(compare(after, before)).startswith("-50.0 points [")


def test_the_paired_interval_is_newcombes_and_wide_where_few_rows_differ():
    # Newcombe, Statistics in Medicine 17 (1998) 2635, example of 36, 12, 2 and 0 pairs
    sides = {(1, 1): 36, (1, 0): 12, (0, 1): 2}
    pairs = [pair for pair, count in sides.items() for _ in range(count)]
    a, b = (scored(*(pair[side] for pair in pairs)) for side in (0, 1))
    assert (compare(b, a).low, compare(b, a).high) == pytest.approx((0.0569, 0.3404), abs=5e-5)
    one_better = compare(scored(*[1] * 49, 0), scored(*[1] * 50))
    assert one_better.low < 0 < one_better.value


def test_pairing_is_sharper_than_two_intervals():
    rng = np.random.default_rng(0)
    hard = rng.random(300)
    before, after = scored(*hard, metric="overlap"), scored(*(hard + 0.02), metric="overlap")
    assert before.high > after.low
    assert compare(before, after).low == pytest.approx(0.02)


def test_compare_refuses_other_rows_and_other_metrics():
    with pytest.raises(DataError, match="same rows"):
        compare(scored(1, 0), scored(1, 0, 1))
    with pytest.raises(DataError, match="one metric"):
        compare(scored(1, 0), scored(1, 0, metric="cloze"))


def test_the_table_shows_wrong_rows_and_escapes_them():
    scores = scored(1, 0, 0, prediction=["fine", "<b>bold</b>", "x" * 200])
    html = scores._repr_html_()
    assert "wrong: 2 of 3" in html and "fine" not in html
    assert "&lt;b&gt;bold" in html and "<b>bold" not in html
    assert "x" * 79 + "…" in html and "x" * 80 not in html
    assert repr(scores) == f"exact_match: {scores}"


def test_the_table_of_perplexity_starts_with_the_worst_row():
    scores = scored(0.5, 2.0, metric="perplexity", tokens=[3, 1])
    assert scores.value == pytest.approx(math.exp(3.5 / 4))
    assert scores._repr_html_().index("2.000") < scores._repr_html_().index("0.500")


def test_the_public_functions_are_not_hidden_by_the_modules_of_their_names():
    """`import ftlab.generate` once put the module where the function belongs."""
    import ftlab

    for name in ("generate", "evaluate"):
        importlib.import_module(f"ftlab.{name}")
    assert callable(ftlab.generate) and callable(ftlab.evaluate)
