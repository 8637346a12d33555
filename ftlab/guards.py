"""What guards every stage's trainer: stop at a loss that is not finite, whole checkpoints, history.

Used by `ftlab.train`, `ftlab.preference` and the stages that sample their own answers.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from transformers import Trainer, TrainerCallback

from ftlab import adapters, checkpoints, optimizers
from ftlab.run import Meter, Observer, Run


class NotFinite(Exception):
    """The loss or gradient of this step is not finite; raised before the weights change."""


@dataclass
class Setup:
    """What a stage makes its trainer from: the run, its rows as ids, the reference model (None
    where there is none), the reward given in code, the arguments that every configuration has, and
    the callbacks."""

    run: Run
    rows: Dataset
    held_out: Dataset | None = None
    reference: Any = None
    meter: Meter | None = None
    reward: Any = None
    arguments: dict[str, Any] = field(default_factory=dict)
    callbacks: list[TrainerCallback] = field(default_factory=list)

    def parts(self) -> dict[str, Any]:
        """The arguments that every trainer with ``Guards`` takes."""
        return {
            "train_dataset": self.rows, "eval_dataset": self.held_out, "run": self.run,
            "processing_class": self.run.tokenizer, "callbacks": self.callbacks,
            "meter": self.meter,
        }  # fmt: skip


_Trainer: Any = Trainer if TYPE_CHECKING else object


class Guards(_Trainer):
    """Comes before a trainer of TRL among a class's bases: guards and whole checkpoints."""

    run: Run
    meter: Meter

    def __init__(self, *args: Any, run: Run, meter: Meter, **kwargs: Any) -> None:
        exact = [(p, p.data) for p in run.model.parameters() if p.requires_grad]
        super().__init__(*args, **kwargs)
        for parameter, values in exact:  # TRL rounds those on a quantized base to bfloat16
            parameter.data = values.to(parameter.device)
        self.run, self.meter = run, meter

    def training_step(
        self, model: Any, inputs: Any, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """One forward and backward pass; raises NotFinite on a loss that is not finite."""
        if isinstance(inputs, dict):  # not for questions: their answers are counted when sampled
            self.meter.tokens += int(inputs.get("attention_mask", inputs.get("tokens")).sum())
        loss = super().training_step(model, inputs, num_items_in_batch)
        if not math.isfinite(loss.item()):
            raise NotFinite("loss")
        return loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm)
        # With fp16 loss scaling an infinite gradient is normal: the scaler skips that step.
        if self.accelerator.scaler is None and not math.isfinite(float(norm)):
            raise NotFinite("gradient")
        return norm

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The recipe's optimizer, where it is one that transformers does not know."""
        if self.optimizer is None:
            self.optimizer = optimizers.build(self.model, self.run.recipe, self.args)
        if self.run.recipe.use_badam and self.run.recipe.badam_mode == "ratio":
            optimizers.clip_sparse(self.accelerator)
        return super().create_optimizer(model)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """The loss of the answers alone, without what AdaLoRA adds to it in training."""
        with adapters.without_penalty(self.model):
            return super().evaluate(*args, **kwargs)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if not adapters.restore(self.model, Path(resume_from_checkpoint)):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        assert self.run.folder is not None
        name = f"checkpoint-{self.state.global_step}"
        with checkpoints.written_whole(self.run.folder / name) as temporary:
            self._partial = temporary  # transformers makes a folder checkpoint-N in it
            Trainer._save_checkpoint(self, model, trial)
            for path in (temporary / name).iterdir():
                path.replace(temporary / path.name)
            (temporary / name).rmdir()
            checkpoints.copy_base_record(self.run.folder, temporary)
            adapters.finish_folder(self.model, temporary, checkpoint=True)
            lines = "\n".join(json.dumps(record) for record in self.run.history)
            checkpoints.write_text(temporary / "history.jsonl", lines + "\n")
        checkpoints.rotate(self.run.folder, self.run.recipe.save_total_limit)

    def _get_output_dir(self, trial: Any) -> str:
        return str(getattr(self, "_partial", self.args.output_dir))


class Recorder(TrainerCallback):
    """Fills ``run.history``, tells the observers, and ends training when asked to."""

    def __init__(
        self, run: Run, meter: Meter, observers: Sequence[Observer], stop: threading.Event
    ):
        self.run, self.meter, self.observers, self.stop = run, meter, observers, stop

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.run.total_steps = state.max_steps
        self.meter.start()
        for observer in self.observers:
            observer.on_start(self.run)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.stop.is_set():
            control.should_training_stop = True
            control.should_log = True

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        kept = {k: v for k, v in (logs or {}).items() if k in _RECORDED}
        if not kept:
            return
        step, history = state.global_step, self.run.history
        if history and history[-1]["step"] == step:
            history[-1].update(kept)  # the eval loss joins the record of its step
        else:
            self.meter.sample_memory()
            measured = {"seconds": self.meter.seconds(), "tokens": self.meter.tokens}
            history.append({"step": step, "epoch": state.epoch, **kept, **measured})
        for observer in self.observers:
            observer.on_log(self.run, history[-1])


_MEASURES = (
    "loss", "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies",
    "logps/chosen", "logps/rejected", "kl", "kto_kl", "entropy", "sft_loss",
)  # fmt: skip
_RECORDED = {
    *_MEASURES, *(f"eval_{name}" for name in _MEASURES), "learning_rate", "grad_norm",
    "reward", "length", "ended", "clipped", "kl_coef", "value_loss", "sampled_per_second",
}  # fmt: skip
