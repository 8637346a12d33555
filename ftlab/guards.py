"""What guards every stage's trainer: stop at a loss that is not finite, whole checkpoints, history.

Used by `ftlab.train`, `ftlab.alignment.preference` and the stages that sample their own answers.
"""

from __future__ import annotations

import json
import math
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from transformers import Trainer, TrainerCallback

from ftlab import adapters, batches, checkpoints, optimizers, padding, processes, sharding
from ftlab.engine import fast
from ftlab.recipe import Recipe, rules
from ftlab.run import Meter, Observer, Run


class NotFinite(Exception):
    """The loss or gradient of this step is not finite; raised before the weights change."""


@dataclass
class Setup:
    """What a stage makes its trainer from: the run, its rows as ids, the reference model (None
    where there is none), the judges whose scores are the reward, the arguments that every
    configuration has, and the callbacks."""

    run: Run
    rows: Dataset
    held_out: Dataset | None = None
    reference: Any = None
    judges: Any = None
    meter: Meter | None = None
    quiet: bool = False
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
    optimizer: Any

    def __init__(self, *args: Any, run: Run, meter: Meter, **kwargs: Any) -> None:
        self.run, self.meter = run, meter
        exact = [(p, p.data) for p in run.model.parameters() if p.requires_grad]
        super().__init__(*args, **kwargs)
        for parameter, values in exact:  # TRL rounds those on a quantized base to bfloat16
            parameter.data = values.to(parameter.device)
        self.skipped = 0
        self.offloading = fast.offloading(run.model, run.recipe)

    def create_accelerator_and_postprocess(self) -> None:
        """Trainer's, and FSDP on a CPU too."""
        super().create_accelerator_and_postprocess()
        sharding.enable(self)
        if self.args.device.type == "cpu":  # torch.load knows no cpu:0, as accelerate calls it
            self.args.__dict__["_setup_devices"] = torch.device("cpu")

    def training_step(
        self, model: Any, inputs: Any, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """One forward and backward pass; raises NotFinite on a loss that is not finite."""
        if isinstance(inputs, dict):  # not for questions: their answers are counted when sampled
            self.meter.count(inputs)
            self.meter.tokens -= batches.blanks(inputs)
        with self.offloading:
            loss = super().training_step(model, inputs, num_items_in_batch)
        if processes.anywhere(not math.isfinite(loss.item())):
            raise NotFinite("loss")
        return loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm, scaler = super()._get_grad_norm(model, grad_norm), self.accelerator.scaler
        known = norm is not None  # DeepSpeed has none before its first step
        if known and not math.isfinite(float(norm)):
            if scaler is None:
                raise NotFinite("gradient")
            # float16: the scaler leaves this step out and halves its scale, which begins high. At
            # 1 nothing is scaled any more.
            if scaler.get_scale() <= 1:
                raise NotFinite("gradient (in float16, loss scale 1)")
            self.skipped += 1
        return norm

    def skipped_notice(self) -> list[str]:
        """A sentence for the steps that float16's overflows cost."""
        skipped = f"{self.skipped} steps left out: a gradient overflowed in float16"
        return [f"{skipped}, and the loss scale was halved."] if self.skipped else []

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The recipe's optimizer, where it is one that transformers does not know."""
        if self.optimizer is None:
            self.optimizer = optimizers.build(self.model, self.run.recipe, self.args)
        if self.run.recipe.use_badam and self.run.recipe.badam_mode == "ratio":
            optimizers.clip_sparse(self.accelerator)
        return super().create_optimizer(model)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if padding.grouped(self.run.recipe):
            rows = self.train_dataset if train_dataset is None else train_dataset
            return padding.sampler(self.run.recipe, rows, self.args.world_size)
        return super()._get_train_sampler(train_dataset)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """The loss of the answers alone, without what AdaLoRA adds to it in training."""
        with adapters.penalty(self.model, 0):
            return super().evaluate(*args, **kwargs)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if not adapters.restore(self.model, Path(resume_from_checkpoint)):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        assert self.run.folder is not None
        name = f"checkpoint-{self.state.global_step}"
        if processes.first():
            with checkpoints.written_whole(self.run.folder / name) as temporary:
                self._write_checkpoint(model, trial, temporary, name)
            checkpoints.rotate(self.run.folder, self.run.recipe.save_total_limit)
        else:
            self._lend_a_hand(model, trial, self.run.folder / f".{name}.partial")
        processes.wait()

    def _lend_a_hand(self, model: Any, trial: Any, shared: Path) -> None:
        """Take part in gathering what the first process writes; DeepSpeed's parts are written by
        each process, into one folder."""
        with tempfile.TemporaryDirectory() as elsewhere:
            self._partial = shared if self.is_deepspeed_enabled else Path(elsewhere)
            processes.wait()
            Trainer._save_checkpoint(self, model, trial)
            processes.wait()

    def _write_checkpoint(self, model: Any, trial: Any, temporary: Path, name: str) -> None:
        self._partial = temporary  # transformers makes a folder checkpoint-N in it
        processes.wait()  # the folder is there
        Trainer._save_checkpoint(self, model, trial)
        processes.wait()  # all parts are there
        for path in (temporary / name).iterdir():
            path.replace(temporary / path.name)
        (temporary / name).rmdir()
        assert self.run.folder is not None
        checkpoints.copy_base_record(self.run.folder, temporary)
        adapters.finish_folder(self.model, temporary, checkpoint=True)
        lines = "\n".join(json.dumps(record) for record in self.run.history)
        checkpoints.write_text(temporary / "history.jsonl", lines + "\n")

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Sharded by FSDP, the first process saves what training changed; else as Trainer does."""
        if not self.is_fsdp_enabled:
            super().save_model(output_dir, _internal_call)
            return
        weights = sharding.weights(self)
        if self.args.should_save:
            self._save(output_dir, state_dict=weights)

    def _save_rng_state(self, output_dir: str) -> None:
        """The state of random numbers of each process, all written by the first."""
        super()._save_rng_state(output_dir)
        names = [path.name for path in Path(output_dir).glob("rng_state*.pth")]
        mine = {name: Path(output_dir, name).read_bytes() for name in names}
        for found in processes.gathered(mine):
            for name in found.keys() - mine.keys() if processes.first() else ():
                Path(output_dir, name).write_bytes(found[name])

    def _get_output_dir(self, trial: Any) -> str:
        return str(getattr(self, "_partial", self.args.output_dir))


@contextmanager
def interrupt_sets(stop: threading.Event) -> Iterator[threading.Event]:
    """Inside, the first Ctrl-C ends training after its step; a second one raises as usual.

    So does the SIGTERM that a launcher passes on when it is told to end.
    """
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return
    ends = (signal.SIGINT, signal.SIGTERM) if processes.launched() else (signal.SIGINT,)
    previous = {number: signal.getsignal(number) for number in ends}

    def on_interrupt(*_: Any) -> None:
        interrupted.set()
        stop.set()
        for number, handler in previous.items():
            signal.signal(number, handler)

    for number in ends:
        signal.signal(number, on_interrupt)
    try:
        yield interrupted
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


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
        if processes.anywhere(self.stop.is_set()):
            self.stop.set()
            control.should_training_stop = True
            control.should_log = True
            # `ftlab resume` goes on from here.
            keeps = args.save_strategy != "no" and optimizers.keeps_its_place(self.run.recipe)
            control.should_save = control.should_save or keeps

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Join what was measured to the record of its step, and tell the observers."""
        kept = {k: v for k, v in (logs or {}).items() if k in _RECORDED}
        if not kept:
            return
        kept = processes.averaged(kept)
        step, history = state.global_step, self.run.history
        if history and history[-1]["step"] == step:
            history[-1].update(kept)  # the eval loss joins the record of its step
        else:
            self.meter.sample_memory()
            measured = {"seconds": self.meter.seconds(), "tokens": self.meter.all_tokens()}
            history.append({"step": step, "epoch": state.epoch, **kept, **measured})
        for observer in self.observers:
            observer.on_log(self.run, history[-1])


class Alarm(TrainerCallback):
    """Says once, in ``run.notices`` and on stderr, when KL or the length of answers runs away."""

    def __init__(self, run: Run, quiet: bool = False) -> None:
        self.run, self.quiet, self.said = run, quiet, set[str]()

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Say once of each measure that it runs away."""
        for key, notice in runaway(self.run.history, self.run.recipe):
            if key not in self.said:
                self.said.add(key)
                self.run.notices.append(notice)
                if not self.quiet:
                    print(notice, file=sys.stderr)


STRAYED = 0.5  # nats a token; the course's good runs stay below 0.2
RECENT = 5  # records whose mean is looked at


def runaway(history: Sequence[dict[str, float]], recipe: Recipe) -> Iterator[tuple[str, str]]:
    """What ran away in the last records: the key and a sentence.

    KL to the reference above ``STRAYED`` (above three times ``ppo_target`` for sampled answers,
    where it is that of a whole answer); chosen answers that a loss without a reference made less
    likely by as much; answers twice or half as long as at first.
    """
    online, step = recipe.stage in rules.ONLINE, history[-1]["step"] if history else 0
    limit, unit = (3 * recipe.ppo_target, "an answer") if online else (STRAYED, "a token")
    cure = f"Lower learning_rate (now {recipe.learning_rate:g})"
    more = f"{cure} or raise {'kl_coef' if online else f'pref_beta (now {recipe.pref_beta:g})'}."
    _, kl = _ends(history, "kl")
    if kl > limit:
        yield "kl", f"step {step:g}: KL to the reference is {kl:.2g} nats {unit}. {more}"
    first, now = _ends(history, "logps/chosen")
    free = recipe.stage == "dpo" and recipe.pref_loss in rules.REFERENCE_FREE
    if free and first - now > STRAYED:
        change = f"chosen answers became less likely, by {first - now:.2g} nats a token"
        yield "logps/chosen", f"step {step:g}: {change}. {cure}."
    first, now = _ends(history, "length")
    if now > 2 * first or now < first / 2:
        yield "length", f"step {step:g}: answers went from {first:.0f} to {now:.0f} tokens. {more}"


def _ends(history: Sequence[dict[str, float]], key: str) -> tuple[float, float]:
    """The means of the first and of the last values of a quantity; zeros where there are none."""
    values = [record[key] for record in history if key in record] or [0.0]
    first, last = values[:RECENT], values[-RECENT:]
    return sum(first) / len(first), sum(last) / len(last)


_MEASURES = (
    "loss", "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies",
    "logps/chosen", "logps/rejected", "kl", "kto_kl", "entropy", "sft_loss",
)  # fmt: skip
_RECORDED = {
    *_MEASURES, *(f"eval_{name}" for name in _MEASURES), "learning_rate", "grad_norm",
    "reward", "eval_reward", "length", "ended", "clipped", "kl_coef", "value_loss",
    "sampled_per_second",
}  # fmt: skip
