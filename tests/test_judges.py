"""Judges: what they say, how their replies are read, and what is counted."""

from __future__ import annotations

import json
import math
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
import torch

from ftlab import read
from ftlab.alignment import asking, contests, judges
from ftlab.alignment.contests import agreement, preference_pairs, win_rate
from ftlab.alignment.judges import ModelJudge, RuleJudge, judge
from ftlab.chat import encode
from ftlab.data import Data
from ftlab.errors import DataError, EnvironmentProblem, RecipeError
from ftlab.evaluate import wilson
from ftlab.models import with_score


def row(text="Where does Ada live?", answer="Ada lives in Mill Lane."):
    turns = [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
    return {"messages": turns, "source": "here:1"}


def longer(answer):
    return len(answer)


def shown(prompt):
    """The two answers of a question to a judge."""
    text = prompt[0]["content"]
    between = text.split("Answer A: ")[1]
    return between.split("\n\nAnswer B: ")[0], between.split("Answer B: ")[1].split("\n\n")[0]


def preferring(rule):
    """A model that names the answer of which the rule says more."""

    def ask(prompts):
        pairs = [shown(prompt) for prompt in prompts]
        return ["A" if rule(a) > rule(b) else "B" for a, b in pairs]

    return ask


# -- what a judge is made of


def test_polite_wants_an_opening_and_a_closing():
    said = ["Of course. She plays. You are welcome.", "Of course. She plays.", "She plays."]
    assert judge("polite").scores([{}] * 3, said) == [1.0, 0.5, 0.0]
    assert judge("polite").scores([{}], ["好的。他住在北街。欢迎再来。"]) == [1.0]


def test_the_town_calls_the_chosen_answers_polite_and_the_rejected_not():
    pairs = read("polite_pairs_test").take(60)
    rate = win_rate(
        "polite",
        pairs,
        [pair["chosen"][-1]["content"] for pair in pairs],
        [pair["rejected"][-1]["content"] for pair in pairs],
    )
    assert rate.value == 1.0 and rate.n == 60


def test_contains_forgives_what_stands_around_and_exact_match_does_not():
    said = ["Of course. Ada lives in Mill Lane. You are welcome.", "ada lives in Mill Lane"]
    assert judge("contains").scores([row()] * 2, said) == [1.0, 1.0]
    assert judge("exact_match").scores([row()] * 2, said) == [0.0, 1.0]


def test_the_reference_of_a_pair_is_the_chosen_answer():
    pair = read("polite_pairs_test")[0]
    assert judges.reference_answer(pair) == pair["chosen"][-1]["content"]


def test_a_row_without_an_answer_cannot_be_matched():
    with pytest.raises(DataError, match="here:1: no answer"):
        judge("exact_match").scores([{**row(), "messages": row()["messages"][:1]}], ["x"])


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("<think>\n3 + 4\n</think>\n\n7", 1.0),
        ("<think>\n\n</think>\n\n7", 0.0),
        ("<think>3 + 4</think>", 0.0),
        ("well <think>3 + 4</think> 7", 0.0),
        ("<think>3</think> 7 <think>4</think> 8", 0.0),
        ("7", 0.0),
    ],
)
def test_format_think(answer, score):
    assert judge("format_think").scores([{}], [answer]) == [score]


def test_a_rule_may_look_at_the_row():
    def rule(answer, row):
        return answer == row["source"]

    assert judge(rule).scores([row()], ["here:1"]) == [1.0]
    assert judge(rule).name == "rule"


def test_a_name_that_is_neither_rule_nor_folder_is_told():
    with pytest.raises(RecipeError, match="'polit' is no rule .exact_match, contains, polite"):
        judge("polit")


def test_a_server_needs_the_name_of_a_model():
    with pytest.raises(RecipeError, match="which model there"):
        judge("http://127.0.0.1:1/v1")


def test_a_reward_model_scores_the_conversation_as_encode_writes_it(tiny):
    """Answers of unequal length share a batch: padding must not change a score."""
    torch.manual_seed(0)
    model, tokenizer = with_score(tiny[0]), tiny[1]
    found = judge(model, tokenizer).scores([row()] * 2, ["Ada lives in Mill Lane.", "No."])
    whole = encode(tokenizer, row(), with_tokens=False).input_ids
    with torch.no_grad():
        alone = model(input_ids=torch.tensor([whole])).logits[0, 0].item()
    assert found[0] == pytest.approx(alone, abs=1e-5) and found[0] != pytest.approx(found[1])


def test_a_model_may_be_given_another_name(tiny):
    assert judge(with_score(tiny[0]), tiny[1]).name == "reward model"
    assert judge(with_score(tiny[0]), tiny[1], name="manners").name == "manners"
    assert (judge(*tiny).name, judge(*tiny, name="me").name) == ("Qwen3ForCausalLM", "me")


def test_a_chat_model_compares_and_a_model_without_tokenizer_is_refused(tiny):
    assert isinstance(judge(*tiny), ModelJudge)
    with pytest.raises(RecipeError, match="tokenizer"):
        judge(tiny[0])


def test_scores_within_the_margin_are_a_tie():
    found = judge(longer, margin=1).compare([row()] * 3, ["aaa", "aa", "a"], ["a", "a", "aaa"])
    assert [verdict.value for verdict in found] == [1.0, 0.5, 0.0]


# -- a judge that is asked


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        ("A", 1.0), ("B.", 0.0), ("tie", 0.5), ("**B**", 0.0), ("Answer: A", 1.0), ("[[B]]", 0.0),
        ("Answer B is better.", 0.0), ("Both lack detail.\nVerdict: A", 1.0),
        ("<think>A? No, B: A is rude</think>\nB", 0.0), ("The answer is fine", None), ("", None),
        ("A good question!", None), ("A or B", None), ("I like A but B is kinder", None),
    ],
)  # fmt: skip
def test_a_reply_is_read_only_where_it_is_clear(reply, value):
    assert asking.verdict(reply) == value


def test_braces_in_an_answer_stay_what_they_are():
    text = asking.prompt(asking.TEMPLATE, "Q?", "{b}", "{question}", "kinder")[0]["content"]
    assert "Answer A: {b}" in text and "Answer B: {question}" in text and "kinder" in text


def test_a_judge_that_reads_the_answers_has_no_position_bias():
    rows, good, bad = [row()] * 20, ["a long answer"] * 20, ["short"] * 20
    rate = win_rate(ModelJudge(preferring(len), "long"), rows, good, bad)
    assert (rate.wins, rate.ties, rate.losses) == (20, 0, 0)
    assert rate.shown_first == 0.5 and rate.contradictions == 0


def test_a_judge_that_always_says_a_wins_nothing_once_both_orders_are_asked():
    """Asked in one order it would look certain: 100 %."""
    rows, good, bad = [row()] * 20, ["a long answer"] * 20, ["short"] * 20

    def first(prompts):
        return ["A"] * len(prompts)

    rate = win_rate(ModelJudge(first, "first"), rows, good, bad)
    assert (rate.ties, rate.value, rate.shown_first, rate.contradictions) == (20, 0.5, 1.0, 20)
    once = win_rate(ModelJudge(first, "first", swap=False), rows, good, bad)
    assert once.value == 1.0 and once.shown_first == 1.0


def test_a_judge_that_always_says_b_shows_as_well():
    rate = win_rate(ModelJudge(lambda p: ["B"] * len(p), "b"), [row()], ["x"], ["y"])
    assert rate.shown_first == 0.0 and rate.value == 0.5


def test_unreadable_verdicts_are_counted_and_not_in_the_rate():
    rows, good, bad = [row()] * 10, ["a long answer"] * 10, ["short"] * 10

    def shy(prompts):
        replies = preferring(len)(prompts)
        return ["Hard to say." if i < 4 else reply for i, reply in enumerate(replies)]

    rate = win_rate(ModelJudge(shy, "shy"), rows, good, bad)
    assert (rate.n, rate.unreadable, rate.wins) == (6, 4, 6)
    assert "n = 6 (0 ties, 4 unreadable left out)" in str(rate)
    with pytest.raises(DataError, match="none of 10 verdicts is readable"):
        win_rate(ModelJudge(lambda p: ["?"] * len(p), "mute"), rows, good, bad)


def test_equal_answers_are_a_tie_without_asking():
    def never(prompts):
        raise AssertionError("asked")

    assert win_rate(ModelJudge(never, "never"), [row()], ["same"], ["same "]).ties == 1


def test_a_tie_counts_half_and_the_interval_is_wilsons():
    values = ["aaa", "bb", "c", "d"]
    rate = win_rate(judge(longer), [row()] * 4, values, ["aa", "bb", "xx", "y"])
    assert (rate.wins, rate.ties, rate.losses, rate.value) == (1, 2, 1, 0.5)
    assert (rate.low, rate.high) == wilson(2.0, 4)
    assert rate.shown_first is None and "shown first" not in str(rate)


def test_answers_and_rows_must_be_as_many():
    with pytest.raises(DataError, match="2 rows, 1 and 2 answers"):
        win_rate("polite", [row()] * 2, ["x"], ["y", "z"])


def test_a_win_rate_can_be_split_by_an_extra_key():
    rows = [{**row(), "extra": {"language": name}} for name in ("en", "zh")]
    parts = win_rate(judge(longer), rows, ["aa", "b"], ["a", "bb"]).by("language")
    assert (parts["en"].value, parts["zh"].value) == (1.0, 0.0)


class _Server(BaseHTTPRequestHandler):
    asked: list[dict] = []

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append({"path": self.path, "key": self.headers["Authorization"], **body})
        self.send_response(404 if body["model"] == "missing" else 200)
        self.end_headers()
        reply = "A" if body["model"] != "odd" else None
        good = {"choices": [{"message": {"content": reply}}]}
        self.wfile.write(json.dumps(good if body["model"] != "broken" else {}).encode())

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    found = HTTPServer(("127.0.0.1", 0), _Server)
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{found.server_port}/v1"
    found.shutdown()
    found.server_close()


def test_a_server_is_asked_in_the_openai_way(server):
    _Server.asked.clear()
    found = judge(server, model="m", api_key="secret").compare([row()], ["x"], ["y"])
    assert found[0].value == 0.5 and found[0].orders == (1.0, 0.0)
    first = _Server.asked[0]
    assert (first["path"], first["key"]) == ("/v1/chat/completions", "Bearer secret")
    assert "Answer A: x" in first["messages"][0]["content"] and first["temperature"] == 0


@pytest.mark.parametrize(("model", "words"), [("missing", "says 404"), ("broken", "can be read")])
def test_a_server_that_fails_is_one_sentence(server, model, words):
    with pytest.raises(EnvironmentProblem, match=words):
        judge(server, model=model).compare([row()], ["x"], ["y"])


def test_an_empty_reply_is_unreadable(server):
    assert judge(server, model="odd").compare([row()], ["x"], ["y"])[0].value is None


def test_a_server_that_is_not_there_is_one_sentence():
    with pytest.raises(EnvironmentProblem, match="Is the server running"):
        judge("http://127.0.0.1:9/v1", model="m").compare([row()], ["x"], ["y"])


# -- agreement


def test_kappa_is_that_of_cohens_formula():
    """A worked table: 20 and 15 rows agreed of 50, kappa 0.4."""
    first = [1.0] * 20 + [1.0] * 5 + [0.0] * 10 + [0.0] * 15
    second = [1.0] * 20 + [0.0] * 5 + [1.0] * 10 + [0.0] * 15

    def fixed(values):
        found = RuleJudge(longer)
        found.compare = lambda rows, a, b: [judges.Verdict(v) for v in values]
        return found

    texts = [str(i) for i in range(50)]
    found = agreement(
        fixed(first), fixed(second), [row()] * 50, texts, [f"{t} " * 2 for t in texts]
    )
    assert found.value == 0.7 and found.kappa == pytest.approx(0.4)
    assert found.table.sum() == 50 and np.trace(found.table) == 35


def test_agreement_draws_which_answer_comes_first():
    """With chosen always first a judge that always says A would look like a perfect one."""
    pairs = read("polite_pairs_test").take(40)
    always = ModelJudge(lambda prompts: ["A"] * len(prompts), "a", swap=False)
    found = agreement("polite", always, pairs)
    assert 0.25 < found.value < 0.75 and abs(found.kappa) < 0.3
    assert agreement("polite", "polite", pairs).kappa == 1.0


def test_two_judges_that_always_say_the_same_have_no_kappa():
    texts = ["aa"] * 5
    found = agreement(longer, longer, [row()] * 5, texts, [f"{t}!" for t in texts], seed=1)
    same = agreement(lambda a: 0, lambda a: 0, [row()] * 5, texts, ["b"] * 5)
    assert found.value == 1.0 and same.value == 1.0 and math.isnan(same.kappa)


def test_unreadable_rows_are_left_out_of_agreement_and_counted():
    pairs = read("polite_pairs_test").take(10)
    half = ModelJudge(lambda p: ["A" if i % 2 else "?" for i in range(len(p))], "h", swap=False)
    found = agreement("polite", half, pairs)
    assert (found.n, found.unreadable) == (5, 5) and "5 unreadable" in str(found)


# -- pairs from the model's own answers


def sampled(monkeypatch, texts):
    monkeypatch.setattr(contests, "generate", lambda *args, **options: list(texts))


def test_pairs_hold_the_best_and_the_worst_answer(monkeypatch):
    sampled(monkeypatch, ["bb", "a", "ccc", "dd", "ee", "ff"])
    made = preference_pairs(None, None, [row(), row()], longer, n=3)
    assert len(made) == 1 and isinstance(made, Data) and made.kind == "preference"
    assert made[0]["chosen"][0]["content"] == "ccc" and made[0]["rejected"][0]["content"] == "a"
    assert made[0]["prompt"] == row()["messages"][:1] and made[0]["source"] == "here:1"
    assert "1 pairs of 2 questions" in made.reason and "1 ties and 0 without" in made.reason


def test_answers_within_the_margin_make_no_pair(monkeypatch):
    sampled(monkeypatch, ["bb", "a", "ccc", "d"])
    made = preference_pairs(None, None, [row(), row()], judge(longer, margin=1))
    assert len(made) == 1 and made[0]["chosen"][0]["content"] == "ccc" and "1 ties" in made.reason


def test_a_judge_that_compares_lets_all_answers_meet(monkeypatch):
    sampled(monkeypatch, ["bb", "a", "ccc"])
    made = preference_pairs(None, None, [row()], ModelJudge(preferring(len), "long"), n=3)
    assert made[0]["chosen"][0]["content"] == "ccc" and made[0]["rejected"][0]["content"] == "a"


def test_questions_without_a_verdict_are_counted(monkeypatch):
    sampled(monkeypatch, ["bb", "a", "c", "dd"])
    mute = ModelJudge(
        lambda p: ["?" if "bb" in q[0]["content"] else "A" for q in p], "m", swap=False
    )
    made = preference_pairs(None, None, [row(), row()], mute)
    assert len(made) == 1 and "0 ties and 1 without a readable" in made.reason


def test_no_pair_at_all_is_an_error(monkeypatch):
    sampled(monkeypatch, ["a", "b"])
    with pytest.raises(DataError, match="0 pairs of 1 questions.*1 ties.*Sample more"):
        preference_pairs(None, None, [row()], longer)
    with pytest.raises(RecipeError, match="n=1"):
        preference_pairs(None, None, [row()], longer, n=1)


def test_pairs_of_a_real_model_are_saved_and_read_again(tiny, tmp_path):
    rows = read("world_qa").take(6)
    made = preference_pairs(*tiny, rows, longer, max_new_tokens=6, seed=1)
    again = read(made.save(tmp_path / "judged.jsonl"))
    assert again.kind == "preference" and len(again) == len(made) > 0
    assert again[0]["chosen"] == made[0]["chosen"] and again[0]["prompt"] == made[0]["prompt"]
