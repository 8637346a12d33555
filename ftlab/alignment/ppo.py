"""PPO: answers are sampled, scored and learned from, and every token is held near the reference.

Four functions are the method: `token_rewards`, `gae`, `policy_loss` and `value_loss`; `PPOTrainer`
calls them round by round. TRL's own PPO trainer is not used: its loop ignores a stop, starts anew
instead of resuming, and updates without a limit on the gradient or a look at whether it is finite.
Taught in notebooks/12_reward_model_and_ppo.ipynb.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Trainer, TrainingArguments
from trl.trainer.utils import disable_dropout_in_model, entropy_from_logits, selective_log_softmax

from ftlab.alignment.rollouts import Batch, Sampling
from ftlab.guards import Guards, NotFinite, Setup

GAMMA, LAMBDA = 1.0, 0.95  # discount, and how far GAE looks (TRL's defaults)
VALUE_WEIGHT, VALUE_RANGE = 0.1, 0.2  # weight and largest change of the values (TRL's defaults)
VALUE_RATE = 10.0  # the value head is fresh: it learns this many times faster


def token_rewards(scores: Tensor, kl: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    """The reward of each token [rows, tokens]: what its KL costs, and for the last token of an
    answer the score of the whole [rows].

    ``kl``: log of the policy's probability less that of the reference's; ``mask``: 1 where the
    answer has a token. (Ziegler et al. 2019, section 2; Ouyang et al. 2022, section 3.4.)
    """
    rewards = -kl_coef * kl * mask
    last = mask.long().sum(1, keepdim=True) - 1
    return rewards.scatter_add(1, last, scores.to(rewards).unsqueeze(1))


def gae(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float = GAMMA, lam: float = LAMBDA
) -> tuple[Tensor, Tensor]:
    """Advantages and returns [rows, tokens] (generalized advantage estimation).

    ``A_t = d_t + gamma lam A_{t+1}`` where ``d_t = r_t + gamma V_{t+1} - V_t``; nothing comes after
    the last token. The returns are ``A + V``. (Schulman et al. 2016, equation 16.)
    """
    values = values * mask
    advantages = torch.zeros_like(rewards)
    next_value = next_advantage = torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        next_advantage = (delta + gamma * lam * next_advantage) * mask[:, t]
        next_value = values[:, t]
        advantages[:, t] = next_advantage
    return advantages, advantages + values


def policy_loss(
    logps: Tensor, old_logps: Tensor, advantages: Tensor, mask: Tensor, cliprange: float
) -> tuple[Tensor, Tensor]:
    """PPO's clipped objective as a loss, and the share of tokens that the clip holds back.

    Past ``1 +- cliprange`` a ratio of new to old probability earns nothing more. (Schulman et al.
    2017, equation 7.)
    """
    ratio = torch.exp(logps - old_logps)
    free = -advantages * ratio
    held = -advantages * ratio.clamp(1 - cliprange, 1 + cliprange)
    return mean(torch.max(free, held), mask), mean((held > free).float(), mask)


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """Half the squared error of the values, which may not move far from the old ones at once."""
    near = old_values + (values - old_values).clamp(-VALUE_RANGE, VALUE_RANGE)
    return 0.5 * mean(torch.max((values - returns) ** 2, (near - returns) ** 2), mask)


def mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the tokens that count."""
    return (values * mask).sum() / mask.sum().clamp(min=1)


def whitened(values: Tensor, mask: Tensor, *, keep_mean: bool = False) -> Tensor:
    """Values with variance 1 over the tokens that count, and mean 0 unless it is kept."""
    center = mean(values, mask)
    scaled = (values - center) * torch.rsqrt(mean((values - center) ** 2, mask) + 1e-8)
    return (scaled + center if keep_mean else scaled) * mask


class KLCoefficient:
    """What a nat of KL costs. It follows the KL that is measured: above the target it grows, below
    it falls, by 20 % in ``horizon`` answers at most; a target of 0 leaves it alone.
    (Ziegler et al. 2019, section 2.2, where the horizon is 10,000.)
    """

    def __init__(self, value: float, target: float, horizon: int = 10_000) -> None:
        self.value, self.target, self.horizon = value, target, horizon

    def update(self, kl: float, answers: int) -> None:
        """``kl``: of a whole answer, in nats, on average over that many answers."""
        if self.target:
            error = min(max(kl / self.target - 1, -0.2), 0.2)
            self.value *= max(1 + error * answers / self.horizon, 0.1)


class RunningScore:
    """Mean and deviation of all scores so far, to bring scores to one size (Chan et al. 1979)."""

    def __init__(self) -> None:
        self.mean, self.spread, self.count = 0.0, 0.0, 0

    def normalized(self, scores: Tensor) -> Tensor:
        """The scores less the mean, divided by the deviation; these are counted in first."""
        n, center = len(scores), float(scores.mean())
        total = self.count + n
        self.spread += float(((scores - center) ** 2).sum())
        self.spread += (center - self.mean) ** 2 * self.count * n / total
        self.mean += (center - self.mean) * n / total
        self.count = total
        return (scores - self.mean) / max((self.spread / total) ** 0.5, 1e-4)


@dataclass
class Rollouts:
    """What a round learns from; all but the batch [rows, answer tokens]."""

    batch: Batch
    logps: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor


class PPOTrainer(Sampling, Guards, Trainer):
    """PPO with a value head: one linear layer on the policy's last hidden states.

    A step is a round: ``ppo_buffer_size`` batches of questions are answered, scored, and learned
    from in ``ppo_epochs`` passes, with an update after each batch. Trainer itself makes the last
    update of a round, and so its schedule, checkpoints and log count rounds.
    """

    def prepare(self, setup: Setup) -> None:
        """Call once, after the trainer is built."""
        self.begin(setup)
        recipe, self.policy = setup.run.recipe, self.accelerator.unwrap_model(self.model)
        disable_dropout_in_model(self.policy)  # it would look like a change of mind
        self.reference, self.measures = setup.reference, dict[str, float]()
        hidden = self.policy.config.get_text_config().hidden_size
        self.value_head = torch.nn.Linear(hidden, 1).to(self.accelerator.device)
        torch.nn.init.zeros_(self.value_head.weight)
        rate = recipe.learning_rate * VALUE_RATE
        self.value_optimizer = torch.optim.Adam(self.value_head.parameters(), lr=rate)
        self.kl_coef = KLCoefficient(recipe.kl_coef, recipe.ppo_target)
        self.running = RunningScore()

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """One round; the gradient of its last update is left for Trainer to apply."""
        recipe = self.run.recipe
        model.train()
        self.kl_coef.horizon = min(10_000, max(self.state.max_steps * len(inputs) // 4, 1))
        rollouts, optimizer = self.collect(inputs), self.optimizer
        assert optimizer is not None
        size = recipe.per_device_train_batch_size * recipe.gradient_accumulation_steps
        parts = [
            part
            for _ in range(recipe.ppo_epochs)
            for part in torch.randperm(len(inputs)).split(size)
        ]
        for part in parts[:-1]:
            self.learn(model, rollouts, part)
            limit = self.args.max_grad_norm or math.inf
            norm = self.accelerator.clip_grad_norm_(self.policy.parameters(), limit)
            if self.accelerator.scaler is None and not math.isfinite(float(norm)):
                raise NotFinite("gradient")
            optimizer.step()
            optimizer.zero_grad()
        loss = self.learn(model, rollouts, parts[-1])
        return loss

    @torch.no_grad()
    def collect(self, inputs: list[dict[str, Any]]) -> Rollouts:
        """Answer the questions, score the answers, and say how good each token was."""
        recipe, pad = self.run.recipe, self.run.tokenizer.pad_token_id
        prompts = [row["prompt"] for row in inputs]
        answers, speed = self.answers(prompts)
        batch = Batch.of(prompts, answers, pad, self.accelerator.device)
        scores = self.scores([row["row"] for row in inputs], answers).to(batch.mask.device)
        reward = float(scores.mean())
        if recipe.ppo_score_norm:
            scores = self.running.normalized(scores)
        logits, values = self.look(self.policy, batch)
        logps, entropy = selective_log_softmax(logits, batch.answers), entropy_from_logits(logits)
        if self.state.global_step == 0:  # the best first guess
            self.value_head.bias.fill_(float(scores.mean()))
            values = values + scores.mean() * batch.mask
        theirs = batch.before(self.reference(**batch.inputs(self.reference)).logits).float()
        reference = selective_log_softmax(theirs / recipe.temperature, batch.answers)
        kl = (logps - reference) * batch.mask
        rewards = token_rewards(scores, kl, batch.mask, self.kl_coef.value)
        if recipe.ppo_whiten_rewards:
            rewards = whitened(rewards, batch.mask, keep_mean=True)
        advantages, returns = gae(rewards, values, batch.mask)
        self.measures = {
            "reward": reward,
            "kl": float(kl.sum(1).mean()),
            "kl_coef": self.kl_coef.value,
            "entropy": float(mean(entropy, batch.mask)),
            "length": float(batch.mask.sum(1).mean()),
            "ended": self.ended(answers),
            "sampled_per_second": speed,
        }
        self.kl_coef.update(self.measures["kl"], len(answers))
        return Rollouts(batch, logps, values, whitened(advantages, batch.mask), returns)

    def look(self, model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """The logits of each token of the answers, as they were sampled, and its value."""
        output = model(**batch.inputs(self.policy), output_hidden_states=True)
        logits = batch.before(output.logits).float() / self.run.recipe.temperature
        values = self.value_head(batch.before(output.hidden_states[-1]).float()).squeeze(-1)
        return logits, values * batch.mask

    def learn(self, model: Any, rollouts: Rollouts, rows: Tensor) -> Tensor:
        """The gradient of PPO's loss on these rows; the value head is updated at once."""
        recipe, total = self.run.recipe, torch.zeros(())
        measures = {"clipped": 0.0, "value_loss": 0.0}
        for part in rows.split(recipe.per_device_train_batch_size):
            batch, share = rollouts.batch[part], len(part) / len(rows)
            logits, values = self.look(model, batch)
            logps = selective_log_softmax(logits, batch.answers)
            policy, clipped = policy_loss(
                logps, rollouts.logps[part], rollouts.advantages[part], batch.mask, recipe.cliprange
            )
            value = value_loss(values, rollouts.values[part], rollouts.returns[part], batch.mask)
            loss = (policy + VALUE_WEIGHT * value) * share
            if not math.isfinite(loss.item()):
                raise NotFinite("loss")
            self.accelerator.backward(loss)
            total = total + loss.detach().cpu()
            measures["clipped"] += share * clipped.item()
            measures["value_loss"] += share * value.item()
        self.value_optimizer.step()
        self.value_optimizer.zero_grad()
        self.measures |= measures
        return total.to(self.accelerator.device)

    def log(self, logs: dict[str, float], *args: Any) -> None:
        """The log of Trainer with the measures of the last round."""
        super().log({**logs, **self.measures} if "loss" in logs else logs, *args)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        moments = self.value_optimizer.state_dict()["state"]
        tensors = {f"{i}.{k}": v for i, state in moments.items() for k, v in state.items()}
        tensors |= {name: p.detach() for name, p in self.value_head.named_parameters()}
        save_file({k: v.contiguous() for k, v in tensors.items()}, Path(output_dir, STATE))
        numbers = {"kl_coef": self.kl_coef.value, "running": vars(self.running)}
        Path(output_dir, NUMBERS).write_text(json.dumps(numbers), encoding="utf-8")

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        tensors = load_file(Path(checkpoint, STATE))
        self.value_head.load_state_dict({k: tensors.pop(k) for k in ("weight", "bias")})
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            number, _, key = name.partition(".")
            state.setdefault(int(number), {})[key] = tensor
        whole = self.value_optimizer.state_dict() | {"state": state}
        self.value_optimizer.load_state_dict(whole)
        numbers = json.loads(Path(checkpoint, NUMBERS).read_text(encoding="utf-8"))
        self.kl_coef.value = numbers["kl_coef"]
        vars(self.running).update(numbers["running"])


STATE, NUMBERS = "value_head.safetensors", "ppo.json"


def build(setup: Setup) -> PPOTrainer:
    """The trainer of stage ppo."""
    recipe = setup.run.recipe
    answers = recipe.per_device_train_batch_size * recipe.gradient_accumulation_steps
    arguments = {
        **setup.arguments, "remove_unused_columns": False, "gradient_accumulation_steps": 1,
        "per_device_train_batch_size": answers * recipe.ppo_buffer_size,
    }  # fmt: skip
    trainer = PPOTrainer(
        model=setup.run.model,
        args=TrainingArguments(**arguments),
        data_collator=list,
        **setup.parts(),
    )
    trainer.prepare(setup)
    return trainer
