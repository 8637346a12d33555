"""Questions -> sampled answers and what they are worth: GRPO and RLOO on TRL's trainers, and what
PPO shares with them.

Taught in notebooks/12_reward_model_and_ppo.ipynb and notebooks/14_preference_family.ipynb.
"""

from __future__ import annotations

import inspect
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import Trainer
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from ftlab.adapters.methods import split
from ftlab.alignment.judges import Scorer, as_judge
from ftlab.errors import RecipeError
from ftlab.generate import Decoding, ready, stop_ids
from ftlab.guards import Guards, Setup
from ftlab.recipe import Recipe

Row = dict[str, Any]


def rewards(recipe: Recipe, given: Any = None) -> list[Scorer]:
    """The judges whose scores are added up: ``reward_funcs``, ``reward_model``, and those given in
    code. RecipeError where there is none, or one that compares answers and gives no score.
    """
    given = [] if given is None else list(given) if isinstance(given, list | tuple) else [given]
    wanted = [*split(recipe.reward_funcs), *given]
    if recipe.reward_model:
        wanted.append(_reward_model(recipe))
    if not wanted:
        raise RecipeError(
            f"stage {recipe.stage}: nothing says what a good answer is. Set reward_model (a run "
            "folder of stage rm) or reward_funcs, or pass reward=."
        )
    found = [as_judge(one) for one in wanted]
    for one in found:
        if not isinstance(one, Scorer):
            raise RecipeError(
                f"reward {one.name!r}: it compares two answers and scores none. Make pairs with "
                "ftlab.preference_pairs and train with stage dpo."
            )
    answers = recipe.per_device_train_batch_size * recipe.gradient_accumulation_steps
    if recipe.stage != "ppo" and answers % recipe.num_generations:
        raise RecipeError(
            f"num_generations={recipe.num_generations}: a step has {answers} answers "
            "(per_device_train_batch_size x gradient_accumulation_steps), which has to be a "
            "multiple of it."
        )
    if (recipe.stage, recipe.finetuning_type) == ("rloo", "adalora"):
        raise RecipeError(
            "finetuning_type=adalora: TRL's RLOO gives the model a second adapter for a moment, "
            "and AdaLoRA takes but one. Use lora, or stage grpo."
        )
    return [one for one in found if isinstance(one, Scorer)]


def _reward_model(recipe: Recipe) -> Scorer:
    from ftlab.alignment.judges import RewardJudge, judge
    from ftlab.models import gives_scores, load

    assert recipe.reward_model is not None
    adapters, bits = split(recipe.reward_model_adapters), recipe.reward_model_quantization_bit
    if not adapters and bits is None:
        found = judge(recipe.reward_model)
    else:
        model, tokenizer = load(recipe.reward_model, adapter=adapters, quantization_bit=bits)
        found = judge(model, tokenizer)
    if not isinstance(found, RewardJudge) or not gives_scores(found.model.config):
        raise RecipeError(
            f"reward_model: {recipe.reward_model} is no reward model. Train one with stage rm."
        )
    return found


_Guards: Any = Guards if TYPE_CHECKING else object


class Sampling(_Guards):
    """Comes first among a trainer's bases: it answers questions by sampling, and scores."""

    judges: list[Scorer]
    limit: int  # of new tokens

    def begin(self, setup: Setup) -> None:
        """Call once the trainer is built."""
        self.judges, self.limit = setup.judges, room(setup)
        if self.limit < setup.run.recipe.max_new_tokens:
            setup.run.notices.append(
                f"max_new_tokens: {self.limit}, as the model reads no longer texts than "
                f"{setup.run.model.config.max_position_embeddings} tokens."
            )

    def answers(self, prompts: Sequence[list[int]]) -> tuple[list[list[int]], float]:
        """One sampled answer (ids) for each question (ids), and the tokens sampled a second."""
        recipe = self.run.recipe
        began = time.perf_counter()
        policy = self.accelerator.unwrap_model(self.model)
        found = sample(policy, self.run.tokenizer, prompts, self.limit, recipe.temperature)
        tokens = sum(map(len, found))
        if self.model.training:
            self.meter.tokens += tokens + sum(map(len, prompts))
        return found, tokens / (time.perf_counter() - began)

    def scores(self, rows: Sequence[str], answers: Sequence[list[int]]) -> Tensor:
        """The sum of all judges' scores [rows]; ``rows`` as JSON."""
        texts = self.run.tokenizer.batch_decode(answers, skip_special_tokens=True)
        whole = [json.loads(row) for row in rows]
        parts = [judge.scores(whole, [text.strip() for text in texts]) for judge in self.judges]
        return torch.tensor(parts, dtype=torch.float32).sum(0)

    def ended(self, answers: Sequence[list[int]]) -> float:
        """The share of answers that the model ended itself."""
        ends = stop_ids(self.accelerator.unwrap_model(self.model), self.run.tokenizer)
        return sum(ids[-1] in ends for ids in answers) / len(answers)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """``eval_reward``: the mean score of one sampled answer to each held-out question."""
        size, found = self.args.per_device_eval_batch_size, []
        training = self.model.training
        self.model.eval()
        for start in range(0, len(self.eval_dataset), size):
            part = self.eval_dataset[start : start + size]
            found.append(self.scores(part["row"], self.answers(part["prompt"])[0]))
        measures = {"eval_reward": float(torch.cat(found).mean())}
        Trainer.log(self, measures)
        self.model.train(training)
        return measures


def room(setup: Setup) -> int:
    """How many tokens an answer may have, so that the longest question leaves them."""
    longest = max(map(len, setup.rows["prompt"]))
    window = getattr(setup.run.model.config, "max_position_embeddings", None)
    wanted = setup.run.recipe.max_new_tokens
    return min(wanted, window - longest) if window and window > longest else wanted


def sample(
    model: Any, tokenizer: Any, prompts: Sequence[list[int]], limit: int, temperature: float
) -> list[list[int]]:
    """One sampled answer for each prompt, all in one batch: its ids, with the one that ends it.

    Drawn from the whole distribution, without top_k and top_p: an answer that is drawn from a part
    of it is not the policy's own, and its KL to the reference comes out wrong.
    """
    decoding = Decoding(max_new_tokens=limit, do_sample=True, temperature=temperature)
    with ready(model, tokenizer, decoding) as write:
        new = write(list(prompts)).tolist()
    ends = set(stop_ids(model, tokenizer))
    return [ids[: next((k + 1 for k, i in enumerate(ids) if i in ends), None)] for ids in new]


@dataclass
class Batch:
    """Questions, padded left, with their answers, padded right, so that all answers begin at one
    place. ``ids``, ``attention`` [rows, Q + A]; ``answers``, ``mask`` [rows, A], the mask 1.0 where
    the answer has a token."""

    ids: Tensor
    attention: Tensor
    answers: Tensor
    mask: Tensor

    @classmethod
    def of(
        cls, prompts: Sequence[list[int]], answers: Sequence[list[int]], pad: int, device: Any
    ) -> Batch:
        """Tensors on ``device``."""
        before, after = max(map(len, prompts)), max(map(len, answers))
        both = list(zip(prompts, answers, strict=True))
        gaps = [(before - len(p), after - len(a)) for p, a in both]
        rows = [[pad] * x + p + a + [pad] * y for (p, a), (x, y) in zip(both, gaps, strict=True)]
        seen = [[0] * x + [1] * (before + after - x - y) + [0] * y for x, y in gaps]
        ids, attention = torch.tensor(rows, device=device), torch.tensor(seen, device=device)
        return cls(ids, attention, ids[:, before:], attention[:, before:].float())

    def __getitem__(self, rows: Tensor) -> Batch:
        return Batch(self.ids[rows], self.attention[rows], self.answers[rows], self.mask[rows])

    def inputs(self, model: Any) -> dict[str, Any]:
        """What ``model`` is called with, so that `logits` finds what predicts the answers."""
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        values = {
            "input_ids": self.ids,
            "attention_mask": self.attention,
            "position_ids": (self.attention.cumsum(1) - 1).clamp(min=0),
            "use_cache": False,
        }
        if "logits_to_keep" in inspect.signature(base.forward).parameters:
            values["logits_to_keep"] = self.answers.shape[1] + 1
        return values

    def before(self, states: Tensor) -> Tensor:
        """Of logits or hidden states [rows, places, ...] those that predict the answers' tokens."""
        return states[:, -self.answers.shape[1] - 1 : -1]


class Grouped(Sampling):
    """Comes before Guards and TRL's GRPOTrainer or RLOOTrainer: questions are ids, answers are
    ended where the model ends them, the reference is the run's."""

    def _tokenize_prompts(self, prompts: Any) -> Any:
        return prompts, None, {}

    def _generate_single_turn(self, prompt_ids: Any, *args: Any) -> Any:
        found, speed = self.answers(prompt_ids)
        self._metrics["train"]["sampled_per_second"].append(speed)
        return found

    def log(self, logs: dict[str, float], *args: Any) -> None:
        """TRL's measures under the names that the other stages use."""
        measures = self._metrics["train"]
        if lengths := measures.get("completions/mean_length"):
            measures["length"] = lengths
            if kl := measures.get("kl"):  # of a whole answer, as ppo_target means it, not a token
                measures["kl"] = [one * sum(lengths) / len(lengths) for one in kl]
            measures["clipped"] = measures["clip_ratio/region_mean"]
            measures["ended"] = [1 - share for share in measures["completions/clipped_ratio"]]
        super().log(logs, *args)


class GroupTrainer(Grouped, Guards, GRPOTrainer):
    """GRPO: an answer is as good as it is better than the others to the same question."""

    def _generate_single_turn(self, prompt_ids: Any, *args: Any) -> Any:
        return super()._generate_single_turn(prompt_ids), None


class LeaveOneOutTrainer(Grouped, Guards, RLOOTrainer):
    """RLOO: the baseline of an answer is the mean of the others to the same question."""


def build(setup: Setup) -> Any:
    """The trainer of the stages grpo and rloo."""
    recipe = setup.run.recipe
    grouped = recipe.stage == "grpo"
    config, kind = (GRPOConfig, GroupTrainer) if grouped else (RLOOConfig, LeaveOneOutTrainer)
    arguments = {
        **setup.arguments, "num_generations": recipe.num_generations, "num_generations_eval": 1,
        "temperature": recipe.temperature, "epsilon": recipe.cliprange, "disable_dropout": True,
        "steps_per_generation": recipe.gradient_accumulation_steps,
        "beta": 0.0,  # else TRL loads the reference from where the model came from
    }  # fmt: skip
    trainer: Any = kind(
        model=setup.run.model,
        args=config(**arguments),
        reward_funcs=[_as_trl(judge) for judge in setup.judges],
        **setup.parts(),
    )
    if "ref" in getattr(setup.run.model, "peft_config", {}):  # RLOO's copy of the adapter
        setup.run.model.delete_adapter("ref")
    trainer.beta, trainer.ref_model = recipe.kl_coef, setup.reference
    trainer.begin(setup)
    return trainer


def _as_trl(judge: Scorer) -> Any:
    """The judge as TRL calls a reward function."""

    def reward(completions: Sequence[str], row: Sequence[str], **_: Any) -> list[float]:
        return judge.scores(
            [json.loads(one) for one in row], [text.strip() for text in completions]
        )

    reward.__name__ = judge.name
    return reward
