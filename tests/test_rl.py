"""PPO, GRPO and RLOO: the formulas, a problem with a known best answer, and the guards of runs."""

from __future__ import annotations

import json
import math
import threading

import pytest
import torch

import ftlab
from ftlab import batches
from ftlab.alignment import ppo
from ftlab.alignment.ppo import (
    KLCoefficient,
    RunningScore,
    gae,
    policy_loss,
    token_rewards,
    value_loss,
)
from ftlab.alignment.rollouts import Batch, sample
from ftlab.chat import asked, prompt_ids
from ftlab.errors import DataError, RecipeError
from ftlab.guards import NotFinite

STAGES = ("ppo", "grpo", "rloo")


def words(answer):
    return float(len(answer.split()))


def recipe(stage="ppo", **changes):
    values = {
        "stage": stage, "finetuning_type": "lora", "learning_rate": 1e-3, "max_steps": 2,
        "per_device_train_batch_size": 4, "num_generations": 2, "ppo_epochs": 2,
        "max_new_tokens": 6, "temperature": 1.0, "lr_scheduler_type": "constant", "seed": 1,
    }  # fmt: skip
    return ftlab.Recipe(**{**values, **changes})


@pytest.fixture(scope="module")
def rows():
    return ftlab.read("world_qa").take(16)


def train(tiny, rows, stage="ppo", reward=words, save=False, **changes):
    options = {"save": save, "quiet": True, "reward": reward}
    return ftlab.train(recipe(stage, **changes), rows, model=tiny[0], tokenizer=tiny[1], **options)


# -- the formulas


def ragged(rows=5, width=7):
    torch.manual_seed(0)
    mask = (torch.arange(width) < torch.tensor([[7], [1], [4], [6], [2]])).float()
    return torch.randn(rows, width), torch.randn(rows, width), mask


def test_gae_is_its_recursive_definition():
    rewards, values, mask = ragged()
    advantages, returns = gae(rewards, values, mask, gamma=0.9, lam=0.8)

    def recursive(row, t, end):
        if t == end:
            return 0.0
        following = values[row, t + 1].item() if t + 1 < end else 0.0
        delta = rewards[row, t].item() + 0.9 * following - values[row, t].item()
        return delta + 0.9 * 0.8 * recursive(row, t + 1, end)

    for row in range(5):
        end = int(mask[row].sum())
        for t in range(7):
            expected = recursive(row, t, end) if t < end else 0.0
            assert advantages[row, t].item() == pytest.approx(expected, abs=1e-5)
    assert torch.allclose(returns, advantages + values * mask)


def test_gae_with_lambda_1_is_the_reward_to_come_less_the_value():
    rewards, values, mask = ragged()
    advantages, _ = gae(rewards * mask, values, mask, gamma=1.0, lam=1.0)
    to_come = (rewards * mask).flip(1).cumsum(1).flip(1)
    assert torch.allclose(advantages, (to_come - values) * mask, atol=1e-5)


def test_the_score_comes_with_the_last_token_and_kl_with_each():
    mask = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
    kl = torch.tensor([[1.0, 2.0, 9.0], [0.0, 0.0, -1.0]])
    found = token_rewards(torch.tensor([10.0, 5.0]), kl, mask, kl_coef=0.5)
    assert found.tolist() == [[-0.5, 9.0, 0.0], [0.0, 0.0, 5.5]]


def test_the_clip_stops_the_gradient_only_where_it_would_earn_more():
    old = torch.zeros(1, 4)
    logps = torch.tensor([[0.5, -0.5, 0.5, -0.5]], requires_grad=True)  # ratios 1.65 and 0.61
    advantages, mask = torch.tensor([[1.0, 1.0, -1.0, -1.0]]), torch.ones(1, 4)
    loss, clipped = policy_loss(logps, old, advantages, mask, 0.2)
    loss.backward()
    assert [bool(g) for g in logps.grad[0]] == [False, True, True, False]
    assert clipped.item() == 0.5
    expected = (-1.2 - math.exp(-0.5) + math.exp(0.5) + 0.8) / 4
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_padding_changes_no_loss():
    rewards, values, mask = ragged()
    torch.manual_seed(1)
    logps, old = -torch.rand(5, 7), -torch.rand(5, 7)
    junk = torch.where(mask.bool(), logps, torch.full_like(logps, 3.0))
    same = [policy_loss(x, old, rewards, mask, 0.2)[0].item() for x in (logps, junk)]
    assert same[0] == pytest.approx(same[1])
    near = [value_loss(values + x, values, rewards, mask).item() for x in (logps, junk)]
    assert near[0] == pytest.approx(near[1])


def test_whitening_gives_mean_0_and_variance_1_where_it_counts():
    values, _, mask = ragged()
    found = ppo.whitened(values * 5 + 3, mask)[mask.bool()]
    assert found.mean().item() == pytest.approx(0, abs=1e-5)
    assert found.var(unbiased=False).item() == pytest.approx(1, abs=1e-4)
    kept = ppo.whitened(values * 5 + 3, mask, keep_mean=True)[mask.bool()]
    assert kept.mean().item() == pytest.approx(
        (values * 5 + 3)[mask.bool()].mean().item(), abs=1e-4
    )


def test_the_kl_coefficient_follows_the_target():
    high, low, fixed = (KLCoefficient(0.1, target, horizon=100) for target in (1.0, 9.0, 0.0))
    for one in (high, low, fixed):
        one.update(3.0, answers=10)
    assert (high.value, low.value, fixed.value) == pytest.approx((0.102, 0.098, 0.1))


def test_running_scores_are_those_of_all_seen_so_far():
    running, parts = RunningScore(), torch.randn(3, 8, generator=torch.manual_seed(0)) * 4 + 2
    for part in parts:
        found = running.normalized(part)
    seen = parts.flatten()
    expected = (parts[-1] - seen.mean()) / seen.std(unbiased=False)
    assert torch.allclose(found, expected, atol=1e-5)


# -- a problem with a known optimum


def bandit(kl_coef, reward, reference, rounds=150, answers=256):
    """PPO on one choice among four tokens; returns the distribution that it learns."""
    torch.manual_seed(0)
    logits, value = reference.log().clone().requires_grad_(), torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.Adam([logits, value], lr=0.03)
    mask = torch.ones(answers, 1)
    for _ in range(rounds):
        with torch.no_grad():
            tokens = torch.multinomial(logits.softmax(0), answers, replacement=True)
            old = logits.log_softmax(0)[tokens].unsqueeze(1)
            kl = old - reference.log()[tokens].unsqueeze(1)
            old_values = value.expand(answers, 1).clone()
            rewards = token_rewards(reward[tokens], kl, mask, kl_coef)
            advantages, returns = gae(rewards, old_values, mask)
        for _ in range(4):
            logps = logits.log_softmax(0)[tokens].unsqueeze(1)
            loss = policy_loss(logps, old, advantages, mask, 0.2)[0]
            loss = loss + value_loss(value.expand(answers, 1), old_values, returns, mask)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return logits.softmax(0).detach()


@pytest.mark.parametrize("kl_coef", [0.3, 1.0])
def test_ppo_finds_the_best_distribution_under_a_kl_penalty(kl_coef):
    """It is the reference times exp(reward / kl_coef), normalized (Rafailov et al. 2023, eq. 4)."""
    reference = torch.tensor([0.4, 0.3, 0.2, 0.1])
    reward = torch.tensor([0.0, 0.2, 0.5, 1.0])
    best = reference * torch.exp(reward / kl_coef)
    best = best / best.sum()
    found = bandit(kl_coef, reward, reference)
    assert (found - best).abs().sum().item() / 2 < 0.03
    assert (reference - best).abs().sum().item() / 2 > 0.1  # it had some way to go


# -- questions and answers


def test_the_question_is_what_comes_before_the_last_answer(tiny):
    turns = [{"role": r, "content": c} for r, c in
             (("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))]  # fmt: skip
    assert asked({"messages": turns}) == turns[:3]
    pair = ftlab.read("polite_pairs")[0]
    assert asked(pair) == pair["prompt"]
    with pytest.raises(DataError, match="no question"):
        asked({"messages": turns[1:2]})
    found, _ = batches.questions(tiny[1], [{"messages": turns}], recipe())
    assert found[0]["prompt"] == prompt_ids(tiny[1], turns[:3], enable_thinking=True)
    assert json.loads(found[0]["row"])["messages"] == turns


def test_a_question_that_is_too_long_is_named_or_left_out_and_counted(tiny, rows):
    long = {"messages": [{"role": "user", "content": "why " * 99}], "source": "here:7"}
    with pytest.raises(DataError, match="here:7: the question has"):
        batches.questions(tiny[1], [*rows, long], recipe(cutoff_len=60))
    short = recipe(cutoff_len=60, truncation_strategy="delete")
    found, report = batches.questions(tiny[1], [*rows, long], short)
    assert len(found) == len(rows) and report.deleted == ["here:7"]


def test_answers_are_cut_after_the_token_that_ends_them(tiny):
    model, tokenizer = tiny
    prompts = [tokenizer(text)["input_ids"] for text in ("Ada", "大家都知道", "The")]
    torch.manual_seed(0)
    for ids in sample(model, tokenizer, prompts, 40, 1.0):
        ends = [i for i in ids if i in (tokenizer.eos_token_id, tokenizer.pad_token_id)]
        assert len(ids) == 40 or ends == ids[-1:]


def test_padding_and_batching_change_no_log_probability(tiny):
    model = tiny[0]
    prompts, answers = [[5, 6, 7], [8], [9, 10]], [[11, 12], [13, 14, 15], [16]]

    def logps(batch):
        with torch.no_grad():
            logits = batch.before(model(**batch.inputs(model)).logits)
        found = logits.log_softmax(-1).gather(-1, batch.answers.unsqueeze(-1)).squeeze(-1)
        return (found * batch.mask).sum(1)

    together = logps(Batch.of(prompts, answers, 0, "cpu"))
    alone = [logps(Batch.of([p], [a], 0, "cpu")) for p, a in zip(prompts, answers, strict=True)]
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)


# -- runs


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_run_starts_at_the_reference_and_moves_away(tiny, rows, stage, method):
    before = {name: p.clone() for name, p in tiny[0].named_parameters()}
    run = train(tiny, rows, stage, finetuning_type=method, learning_rate=1e-2, max_steps=3)
    assert run.status == "finished" and len(run.history) == 3
    first, last = run.history[0], run.history[-1]
    assert first["kl"] == pytest.approx(0, abs=1e-4) and abs(last["kl"]) > 1e-3
    for key in ("reward", "entropy", "length", "ended", "clipped", "sampled_per_second", "loss"):
        assert math.isfinite(last[key]), key
    assert 0 < last["length"] <= 6 and 0 <= last["ended"] <= 1 and last["tokens"] > 0
    assert all(torch.equal(p, before[name]) for name, p in tiny[0].named_parameters())
    assert list(getattr(run.model, "peft_config", {"default": 0})) == ["default"]


@pytest.mark.parametrize("stage", ["ppo", "grpo"])
def test_a_run_learns_what_is_rewarded(tiny, rows, stage):
    """A reward for one token that the base writes now and then."""

    def spaces(answer):
        return -float(len(answer))

    run = train(tiny, rows.take(4), stage, spaces, max_steps=8, learning_rate=1e-2, kl_coef=0.0,
                per_device_train_batch_size=16, num_generations=8, max_new_tokens=4)  # fmt: skip
    rewards = [record["reward"] for record in run.history]
    assert sum(rewards[-2:]) / 2 > sum(rewards[:2]) / 2 + 2


def test_named_rewards_and_given_ones_are_added_up(tiny, rows):
    def one(answer):
        return 1.0

    for stage in ("ppo", "grpo"):
        run = train(tiny, rows, stage, [one, one], max_steps=1, reward_funcs="polite")
        assert run.history[0]["reward"] == pytest.approx(2.0)


def test_a_run_without_a_reward_is_refused_before_anything(tiny, rows):
    with pytest.raises(RecipeError, match="nothing says what a good answer is"):
        train(tiny, rows, reward=None)
    with pytest.raises(RecipeError, match="compares two answers"):
        train(tiny, rows, reward=ftlab.judge(*tiny))
    with pytest.raises(RecipeError, match="num_generations=3: a step has 4 answers"):
        train(tiny, rows, "grpo", num_generations=3)
    with pytest.raises(RecipeError, match="AdaLoRA takes but one"):
        train(tiny, rows, "rloo", finetuning_type="adalora")
    assert "top_p: no effect in stage ppo." in recipe(top_p=0.5).notices
    assert any(note.startswith("kl_coef=0: KL costs nothing") for note in recipe(kl_coef=0).notices)
    with pytest.raises(RecipeError, match="stage sft samples no answers"):
        train(tiny, rows, "sft")


def test_stopping_ends_a_run_after_its_round(tiny, rows):
    stop = threading.Event()

    def reward(answer):
        stop.set()
        return 1.0

    for stage in ("ppo", "rloo"):
        stop.clear()
        run = ftlab.train(recipe(stage, max_steps=9), rows, model=tiny[0], tokenizer=tiny[1],
                          reward=reward, stop=stop, save=False, quiet=True)  # fmt: skip
        assert run.status == "stopped" and len(run.history) == 1


def test_a_reward_that_is_not_a_number_stops_the_run(tiny, rows):
    run = train(tiny, rows, reward=lambda answer: float("nan"))
    assert run.status == "not finite" and not run.history


@pytest.mark.parametrize("stage", ["ppo", "grpo"])
def test_a_resumed_run_ends_where_an_unbroken_one_does(tiny, rows, stage, tmp_path):
    def run(folder, **options):
        values = recipe(stage, max_steps=3, save_steps=2, output_dir=str(tmp_path / folder),
                        max_samples=16, ppo_score_norm=True)  # fmt: skip
        return ftlab.train(values, ftlab.read("world_qa"), reward=words, quiet=True, **options)

    class Stop:
        """Ends the run as a crash would, after its checkpoint."""

        def on_start(self, run):
            pass

        def on_log(self, run, record):
            if record["step"] == 3:
                raise KeyboardInterrupt

        def on_end(self, run):
            pass

    whole = run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("cut", observers=[Stop()])
    again = ftlab.resume(tmp_path / "cut", reward=words)
    assert [r["step"] for r in again.history] == [1, 2, 3]
    for key in ("loss", "reward", "kl", "length"):
        assert [r[key] for r in again.history] == [r[key] for r in whole.history], key
    trained = dict(again.model.named_parameters())
    assert all(torch.equal(p, trained[name]) for name, p in whole.model.named_parameters())


def test_llama_factorys_yaml_trains_by_a_reward_model_of_ours(rows, tmp_path, capsys):
    """LLaMA-Factory's examples/train_lora/llama3_lora_ppo.yaml, made smaller."""
    from ftlab.cli import main

    pairs = ftlab.read("polite_pairs").take(4)
    scored = ftlab.Recipe(stage="rm", finetuning_type="lora", max_steps=1, lora_rank=2,
                          output_dir=str(tmp_path / "rm"))  # fmt: skip
    ftlab.train(scored, pairs, quiet=True)
    path = tmp_path / "ppo.yaml"
    path.write_text(
        f"""
model_name_or_path: tiny
reward_model: {tmp_path / "rm"}
stage: ppo
do_train: true
finetuning_type: lora
lora_target: all
dataset: identity,world_qa
max_samples: 4
output_dir: {tmp_path / "ppo"}
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
learning_rate: 1.0e-5
num_train_epochs: 1.0
lr_scheduler_type: cosine
warmup_ratio: 0.1
max_new_tokens: 4
top_k: 0
top_p: 0.9
""",
        encoding="utf-8",
    )
    assert main(["train", str(path)]) == 0, capsys.readouterr()
    report = (tmp_path / "ppo" / "README.md").read_text(encoding="utf-8")
    assert "stage ppo" in report and (tmp_path / "ppo" / "adapter_model.safetensors").is_file()
    with pytest.raises(RecipeError, match="is no reward model"):
        ftlab.train(recipe(reward_model="tiny"), rows, quiet=True, save=False)


def test_ppo_counts_rounds_and_learns_in_small_batches(tiny, rows, monkeypatch):
    sizes = []
    learn = ppo.PPOTrainer.learn

    def counted(self, model, rollouts, part):
        sizes.append(len(part))
        return learn(self, model, rollouts, part)

    monkeypatch.setattr(ppo.PPOTrainer, "learn", counted)
    values = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    run = train(tiny, rows, max_steps=1, ppo_epochs=3, ppo_buffer_size=2, **values)
    assert sizes == [4] * 6 and run.history[-1]["step"] == 1


def test_small_batches_add_up_to_one(tiny, rows):
    """Two batches of two with accumulation are one of four."""
    runs = [
        train(tiny, rows, max_steps=1, ppo_epochs=1, per_device_train_batch_size=size,
              gradient_accumulation_steps=4 // size, lora_rank=2)
        for size in (4, 2)
    ]  # fmt: skip
    one, two = (dict(run.model.named_parameters()) for run in runs)
    assert runs[0].history[0]["reward"] == runs[1].history[0]["reward"]
    moved = [name for name in one if "lora_B" in name]
    # The loss is a mean over tokens of a small batch, so that unequal lengths weigh a little.
    cosine = [torch.cosine_similarity(one[n].flatten(), two[n].flatten(), 0).item() for n in moved]
    assert min(cosine) > 0.9


def test_held_out_questions_give_an_eval_reward(tiny, rows):
    for stage in ("ppo", "rloo"):
        run = train(tiny, rows, stage, val_size=4, eval_strategy="steps", eval_steps=1, max_steps=1)
        assert math.isfinite(run.history[-1]["eval_reward"])


def test_answers_get_no_more_room_than_the_model_has(tiny, rows):
    seen = []

    def reward(answer):
        seen.append(answer)
        return 0.0

    model = tiny[0]
    window = model.config.max_position_embeddings
    model.config.max_position_embeddings = 40
    try:
        run = train(tiny, rows, reward=reward, max_new_tokens=1024, max_steps=1)
    finally:
        model.config.max_position_embeddings = window
    assert any(note.startswith("max_new_tokens: ") for note in run.notices)
    assert run.history[0]["length"] < 40


def test_not_finite_inside_a_round_is_seen(tiny, rows, monkeypatch):
    monkeypatch.setattr(ppo, "policy_loss", lambda *args: (torch.tensor(math.inf), torch.zeros(())))
    assert train(tiny, rows).status == "not finite"
    assert issubclass(NotFinite, Exception)
