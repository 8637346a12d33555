"""Learning from preferences: reward models, DPO and its family, KTO, on TRL's trainers.

The ids and masks are ftlab's, the losses TRL's; ftlab adds LLaMA-Factory's ``pref_ftx`` and
``dpo_label_smoothing``, the KL to the reference, and keeps TRL's copies of models and files out.
Taught in notebooks/12_reward_model_and_ppo.ipynb, 13_dpo.ipynb and 14_preference_family.ipynb.
"""

from __future__ import annotations

from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, RewardConfig, RewardTrainer
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer
from trl.trainer.reward_trainer import DataCollatorForPreference
from trl.trainer.utils import disable_dropout_in_model, entropy_from_logits, selective_log_softmax

from ftlab.batches import LABEL_SIDES, PAIR_SIDES, AnswerCollator
from ftlab.guards import Guards, Setup
from ftlab.recipe import Recipe


def build(setup: Setup) -> Any:
    """The trainer of the stages rm, dpo and kto."""
    recipe, pad = setup.run.recipe, setup.run.tokenizer.pad_token_id
    kind = recipe.pref_loss if recipe.stage == "dpo" else recipe.stage
    trainer, config, values = _TABLE.get(kind, _TABLE["dpo"])
    arguments = {**setup.arguments, **values(recipe), "remove_unused_columns": False}
    if recipe.stage == "rm":
        collator: Any = DataCollatorForPreference(pad)
    else:
        collator = AnswerCollator(pad, LABEL_SIDES if recipe.stage == "kto" else PAIR_SIDES)
        disable_dropout_in_model(setup.run.model)  # it would look like a change of mind
    reference = {"ref_model": setup.reference} if issubclass(trainer, Referenced) else {}
    return trainer(
        model=setup.run.model,
        args=config(**arguments),
        data_collator=collator,
        **reference,
        **setup.parts(),
    )


class Remembering:
    """A reference model that keeps the logits of its last call, for the KL."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.logits: Any = None

    def __call__(self, **inputs: Any) -> Any:
        outputs = self.model(**inputs)
        self.logits = outputs.logits
        return outputs


class Referenced(Guards):
    """Comes before DPOTrainer and KTOTrainer: what they do with the reference model."""

    columns: tuple[str, ...]  # what the reference says of a row
    ref_model: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # A reference that was asked before training is not needed any more.
        self.ref_model = None if self.precompute_ref_logps else Remembering(self.ref_model)

    def _prepare_dataset(self, dataset: Dataset, *args: Any) -> Dataset:
        return dataset  # ids and labels of ftlab.encode

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        """The reference's log-probabilities as columns, kept in memory.

        TRL writes them to a file that is found again when only ``ld_alpha`` has changed.
        """
        model, found = self.ref_model or self.model, []
        model.eval()
        for start in range(0, len(dataset), batch_size):
            rows = [dataset[i] for i in range(start, min(start + batch_size, len(dataset)))]
            batch = self._prepare_inputs(self.data_collator(rows))
            found.append(torch.stack(self.compute_ref_log_probs(model, batch)).cpu())
        for column, values in zip(self.columns, torch.cat(found, 1).tolist(), strict=True):
            dataset = dataset.add_column(column, values)
        return dataset

    def _compute_loss(self, model: Any, inputs: Any, return_outputs: bool) -> Any:
        """TRL's loss, LLaMA-Factory's additions to it, and the KL to the reference."""
        loss, outputs = super()._compute_loss(model, inputs, True)
        measures = self._metrics["train" if self.model.training else "eval"]
        with torch.set_grad_enabled(loss.requires_grad):
            loss = self._added(loss, outputs, inputs, measures)
        if self.ref_model is not None:
            mask = inputs["completion_mask"][:, 1:].bool()
            logits, reference = outputs.logits[:, :-1], self.ref_model.logits[:, :-1]
            measures["kl"].append(divergence(logits[mask], reference[mask]))
            self.ref_model.logits = None
        return (loss, outputs) if return_outputs else loss

    def _added(self, loss: Tensor, outputs: Any, inputs: Any, measures: Any) -> Tensor:
        raise NotImplementedError

    def _reference(self, inputs: Any) -> Tensor:
        """The reference's log-probability of each answer [rows]."""
        if self.ref_model is not None:
            return token_logps(self.ref_model.logits, inputs).sum(1)
        return torch.cat([inputs[name] for name in self.columns if "KL" not in name])


class PairTrainer(Referenced, DPOTrainer):
    """DPO, hinge, IPO and robust DPO; conservative DPO with ``dpo_label_smoothing``."""

    columns = ("ref_chosen_logps", "ref_rejected_logps")

    def _added(self, loss: Tensor, outputs: Any, inputs: Any, measures: Any) -> Tensor:
        recipe = self.run.recipe
        smooth = recipe.dpo_label_smoothing if recipe.pref_loss == "sigmoid" else 0.0
        if not (recipe.pref_ftx or smooth):
            return loss
        logps, mask = token_logps(outputs.logits, inputs), inputs["completion_mask"][:, 1:]
        if recipe.pref_ftx:
            chosen = slice(len(logps) // 2)
            sft = -(logps[chosen].sum(1) / mask[chosen].sum(1)).mean()
            measures["sft_loss"].append(sft.item())
            loss = loss + recipe.pref_ftx * sft
        if smooth:
            # (1 - e) * -log s(x) + e * -log s(-x) = -log s(x) + e x (Mitchell 2023)
            chosen_ratio, rejected_ratio = (logps.sum(1) - self._reference(inputs)).chunk(2)
            loss = loss + smooth * recipe.pref_beta * (chosen_ratio - rejected_ratio).mean()
        return loss


class LabelTrainer(Referenced, KTOTrainer):
    """KTO. TRL keeps the rows in one order and wants two in a batch, because it pairs neighbors
    for its KL; the pairs of ``batches`` are part of the rows."""

    columns = ("ref_logps", "ref_KL_logps")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        config = kwargs["args"]
        size, config.per_device_train_batch_size = config.per_device_train_batch_size, 2
        order, config.train_sampling_strategy = config.train_sampling_strategy, "sequential"
        super().__init__(*args, **kwargs)
        self.args.per_device_train_batch_size, self.args.train_sampling_strategy = size, order
        self._train_batch_size = self.args.train_batch_size

    def _added(self, loss: Tensor, outputs: Any, inputs: Any, measures: Any) -> Tensor:
        good, kto_kl = inputs["label"].bool(), measures["kl"].pop()
        if not measures["kl"]:
            del measures["kl"]
        logps, mask = token_logps(outputs.logits, inputs), inputs["completion_mask"][:, 1:]
        ratios = (logps.sum(1) - self._reference(inputs)).detach()
        measures["kto_kl"].append(kto_kl)  # of mismatched answers: the point where losses turn
        measures["rewards/accuracies"].append(((ratios > kto_kl) == good).float().mean().item())
        ftx = self.run.recipe.pref_ftx
        if ftx and good.any():
            sft = -(logps[good].sum(1) / mask[good].sum(1)).mean()
            measures["sft_loss"].append(sft.item())
            loss = loss + ftx * sft * len(good) / good.sum()  # as LLaMA-Factory weighs it
        return loss


class ReferenceFree(Guards):
    """Comes before ORPOTrainer and CPOTrainer, which take text and keep their own masks."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        rows, held_out = kwargs["train_dataset"], kwargs["eval_dataset"]
        first = held_out.select([0]) if held_out else None  # None is refused with eval_strategy
        kwargs |= {"train_dataset": rows.select([0]), "eval_dataset": first}
        super().__init__(*args, **kwargs)
        self.train_dataset, self.eval_dataset = rows, held_out
        self.use_dpo_data_collator = True  # or each evaluation warns

    def tokenize_row(self, feature: Any, model: Any = None) -> Any:
        """The row as it is: it holds ids."""
        return feature

    def concatenated_forward(self, model: Any, batch: Any) -> tuple[Any, ...]:
        """Mean log-probabilities of the answers' tokens, logits, and the loss on chosen answers.

        The loss is that of the answers alone, as in the ORPO paper (section 4.1) and in
        LLaMA-Factory; TRL's is that of the questions too.
        """
        batch = self._prepare_inputs(batch)
        ids, attention = batch["input_ids"], batch["attention_mask"]
        logits = model(ids, attention_mask=attention, use_cache=False).logits
        mask = batch["completion_mask"][:, 1:]
        means = token_logps(logits, batch).sum(1) / mask.sum(1)
        with torch.no_grad():
            entropy = entropy_from_logits(logits[:, :-1][mask.bool()]).mean().item()
        mode = "train" if self.model.training else "eval"
        key = "entropy" if self.model.training else "eval_entropy"
        self.store_metrics({key: entropy}, train_eval=mode)
        return (*means.chunk(2), *logits.chunk(2), -means.chunk(2)[0].mean())


class OddsTrainer(ReferenceFree, ORPOTrainer):
    """ORPO: SFT loss on the chosen answer plus the log of an odds ratio."""


class MarginTrainer(ReferenceFree, CPOTrainer):
    """SimPO: the mean log-probability of a token, and a margin to win by."""


class ScoreTrainer(Guards, RewardTrainer):
    """Reward model: Bradley-Terry loss on the scores of both answers."""

    def _prepare_dataset(self, dataset: Dataset, *args: Any) -> Dataset:
        return dataset

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, *args: Any, **kwargs: Any
    ) -> Any:
        """TRL's loss; the measures under the names that the other stages use."""
        loss, outputs = super().compute_loss(model, inputs, True)
        measures = self._metrics["train" if self.model.training else "eval"]
        for side, scores in zip(("chosen", "rejected"), outputs.logits.chunk(2), strict=True):
            measures[f"rewards/{side}"].append(scores.mean().item())
        measures["rewards/accuracies"].append(measures.pop("accuracy")[-1])
        measures["rewards/margins"].append(measures.pop("margin")[-1])
        return (loss, outputs) if return_outputs else loss


def token_logps(logits: Tensor, batch: Any) -> Tensor:
    """Log-probability of each answer token [rows, tokens - 1], 0 elsewhere."""
    logps = selective_log_softmax(logits[:, :-1], batch["input_ids"][:, 1:])
    return logps * batch["completion_mask"][:, 1:]


@torch.no_grad()
def divergence(logits: Tensor, reference: Tensor, at_once: int = 1024) -> float:
    """KL(policy || reference) in nats a token, over logits [tokens, vocabulary]."""
    total = 0.0
    for ours, theirs in zip(logits.split(at_once), reference.split(at_once), strict=True):
        p, q = ours.float().log_softmax(-1), theirs.float().log_softmax(-1)
        total += float((p.exp() * (p - q)).sum())
    return total / max(len(logits), 1)


def _dpo(recipe: Recipe) -> dict[str, Any]:
    return {
        "loss_type": [recipe.pref_loss], "beta": recipe.pref_beta, "ld_alpha": recipe.ld_alpha,
        "label_smoothing": recipe.dpo_label_smoothing if recipe.pref_loss == "robust" else 0.0,
        "precompute_ref_log_probs": recipe.precompute_ref_log_probs,
        "max_length": None, "disable_dropout": False,
    }  # fmt: skip


def _kto(recipe: Recipe) -> dict[str, Any]:
    return {
        "beta": recipe.pref_beta, "desirable_weight": recipe.kto_chosen_weight,
        "undesirable_weight": recipe.kto_rejected_weight,
        "precompute_ref_log_probs": recipe.precompute_ref_log_probs,
        "max_length": None, "disable_dropout": False,
    }  # fmt: skip


def _orpo(recipe: Recipe) -> dict[str, Any]:
    return {"beta": recipe.pref_beta, "max_length": recipe.cutoff_len, "disable_dropout": False}


def _simpo(recipe: Recipe) -> dict[str, Any]:
    own = {"loss_type": "simpo", "simpo_gamma": recipe.simpo_gamma, "cpo_alpha": recipe.pref_ftx}
    return {**_orpo(recipe), **own}


def _rm(recipe: Recipe) -> dict[str, Any]:
    return {"max_length": None, "disable_dropout": False}


# what pref_loss (or the stage) says -> trainer, its configuration, and what that takes
_TABLE: dict[str, tuple[Any, Any, Any]] = {
    "dpo": (PairTrainer, DPOConfig, _dpo),
    "orpo": (OddsTrainer, ORPOConfig, _orpo),
    "simpo": (MarginTrainer, CPOConfig, _simpo),
    "kto": (LabelTrainer, KTOConfig, _kto),
    "rm": (ScoreTrainer, RewardConfig, _rm),
}
