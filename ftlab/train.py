"""Recipe + data -> Run. TRL's SFTTrainer trains; ftlab brings the ids, the labels and the guards.

Taught in notebooks/07_sft.ipynb.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from datasets import disable_progress_bars
from transformers import PrinterCallback, Trainer, set_seed
from trl import SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from ftlab import (
    adapters,
    batches,
    checkpoints,
    engine,
    optimizers,
    processes,
    sharding,
)
from ftlab.adapters import adapt, trainable_parameters
from ftlab.adapters.methods import split
from ftlab.arguments import common_arguments, training_arguments
from ftlab.base import base_record, check_base
from ftlab.data import Data
from ftlab.engine import apart, fast
from ftlab.errors import CheckpointError, RecipeError
from ftlab.guards import Alarm, Guards, NotFinite, Recorder, Setup, interrupt_sets
from ftlab.hardware import here, pick_device, precision, precision_notices
from ftlab.models import load, load_for, quiet_loading
from ftlab.recipe import Recipe, rules
from ftlab.run import Meter, Observer, Run, summarize, write_folder

# stage -> the module whose `build(setup)` makes its trainer
BUILDERS = {
    "rm": "alignment.preference",
    "dpo": "alignment.preference",
    "kto": "alignment.preference",
    "ppo": "alignment.ppo",
    "grpo": "alignment.rollouts",
    "rloo": "alignment.rollouts",
}


def train(
    recipe: Recipe,
    data: Data | Sequence[dict[str, Any]] | None = None,
    *,
    eval_data: Data | Sequence[dict[str, Any]] | None = None,
    model: Any = None,
    tokenizer: Any = None,
    reward: Any = None,
    observers: Sequence[Observer] = (),
    stop: threading.Event | None = None,
    save: bool = True,
    quiet: bool = False,
) -> Run:
    """Train as ``recipe`` says and return the Run.

    ``data`` are rows of ``ftlab.read``; without them ``recipe.dataset`` is read. ``model`` and
    ``tokenizer`` (of ``ftlab.load``) save loading; the given model itself stays untrained.
    ``reward`` is for the stages that sample answers, beside ``reward_funcs`` and ``reward_model``:
    a function (answer, row) -> float or a judge that scores (``ftlab.judge``).
    ``stop`` ends training after the current step, as Ctrl-C does. ``save=False`` writes nothing.
    Raises RecipeError, DataError, ModelError or CheckpointError before anything is trained.
    Under torchrun or accelerate launch every process calls this; observers are told by the first.

    >>> import ftlab
    >>> run = ftlab.train(ftlab.Recipe(max_steps=1), ftlab.read("world_qa").take(8), save=False)
    >>> run.status, run.history[0]["step"]
    ('finished', 1)
    """
    with processes.one_message():
        return _train(
            recipe, data, eval_data, (model, tokenizer), reward, observers, stop, save, quiet
        )


def _train(
    recipe: Recipe,
    data: Any,
    eval_data: Any,
    given: tuple[Any, Any],
    reward: Any,
    observers: Sequence[Observer],
    stop: threading.Event | None,
    save: bool,
    quiet: bool,
) -> Run:
    if (given[0] is None) != (given[1] is None):
        raise RecipeError("model and tokenizer go together: pass both or neither.")
    recipe = naming_data(recipe, data)
    recipe, notes = _settled(recipe, given=given[0] is not None)
    rows, held_out = batches.training_rows(recipe, data, eval_data)
    if engine.elsewhere(recipe):
        job = apart.Job(recipe, rows, held_out, save=save, notices=notes)
        return _advised(apart.run(job, observers, stop, quiet=quiet), quiet)
    quiet = quiet or not processes.first()
    observers = [*observers, *_tracker(recipe)] if processes.first() else []
    own = given[0] is None
    model, tokenizer = _loaded(recipe) if own else given
    del given
    setup = _prepared(recipe, model, tokenizer, rows, held_out, own, reward)
    setup.quiet = quiet
    del model  # where the caller holds it not, a run without a reference frees it
    run = setup.run
    run.notices += notes
    if save:
        run.folder = processes.from_first(lambda: _new_folder(run))
    if not quiet:
        for notice in run.notices:
            print(notice, file=sys.stderr)
    hashes = {"train": batches.content_hash(rows)}
    if held_out:
        hashes["eval"] = batches.content_hash(held_out)
    return _advised(_execute(setup, hashes, observers, stop), quiet)


def _settled(recipe: Recipe, *, given: bool = False) -> tuple[Recipe, list[str]]:
    """The recipe with its engine, and sentences on that; all that can be refused before anything is
    read or loaded is refused here. Then the processes meet."""
    optimizers.check(recipe)
    processes.check(recipe)
    sharding.check(recipe)
    settled = engine.settle(recipe, given=given)
    processes.start(recipe)
    return settled


def _new_folder(run: Run) -> Path:
    recipe = run.recipe
    checkpoints.require_space(Path(recipe.output_dir or "runs"), _bytes_to_save(run.model))
    return checkpoints.new_run_folder(
        recipe.output_dir, run.name, overwrite=recipe.overwrite_output_dir
    )


def resume(
    run_folder: str | os.PathLike[str],
    *,
    reward: Any = None,
    observers: Sequence[Observer] = (),
    stop: threading.Event | None = None,
) -> Run:
    """Continue an unfinished run of this machine from its newest whole checkpoint: one that was
    cut off, or one that was stopped (Ctrl-C, ``stop``), which left a checkpoint as it ended.

    The recipe and the data are those of the folder; when the data have changed since, or no
    checkpoint is whole, CheckpointError says so. ``reward`` is that of ``train``, once more, and
    ``stop`` ends training as it does there. The number of processes may be another one: a step
    sees the same rows.
    """
    with processes.one_message():
        return _resume(Path(run_folder), reward, observers, stop)


def _resume(
    folder: Path, reward: Any, observers: Sequence[Observer], stop: threading.Event | None
) -> Run:
    state = folder / "run.json"
    if not state.is_file():
        raise CheckpointError(f"{folder}: no run of ftlab here (run.json is missing).")
    recipe = Recipe.from_yaml(folder / "recipe.yaml")
    optimizers.check_resume(recipe)
    # A run goes on with the engine it began with; folders of before name none.
    recipe, _ = _settled(recipe.replace(use_unsloth=bool(recipe.use_unsloth)))
    if engine.elsewhere(recipe):
        return apart.run(apart.Job(recipe, resume=folder), observers, stop)
    saved = json.loads(state.read_text(encoding="utf-8"))
    status = saved.get("status", "finished")
    if (folder / checkpoints.MANIFEST).is_file() and status not in ("stopped", "interrupted"):
        raise CheckpointError(f"{folder}: this run is {status}, there is nothing to resume.")
    checkpoint, skipped = checkpoints.newest(folder)
    if checkpoint is None:
        why = " ".join(skipped) or "It has none yet."
        raise CheckpointError(f"{folder}: no checkpoint to resume from. {why} Start a new run.")
    recipe = recipe.replace(template=saved.get("template", recipe.template))
    recipe = processes.same_batch(recipe, saved.get("processes", 1))
    sharding.check_checkpoint(recipe, checkpoint, saved.get("processes", 1))
    rows, held_out = batches.training_rows(recipe, None, None)
    if batches.content_hash(rows) != saved["data"]["train"]:
        raise CheckpointError(f"{folder}: the training data changed since this run began.")
    model, tokenizer = _loaded(recipe)
    setup = _prepared(recipe, model, tokenizer, rows, held_out, True, reward)
    del model
    run = setup.run
    run.name, run.folder, run.notices = saved["name"], folder, skipped + run.notices
    step = int(checkpoint.name.split("-")[-1])
    lines = (checkpoint / "history.jsonl").read_text(encoding="utf-8").splitlines()
    run.history = [record for record in map(json.loads, lines) if record["step"] <= step]
    setup.quiet = not processes.first()
    observers = [*observers, *_tracker(recipe)] if processes.first() else []
    return _execute(setup, saved["data"], observers, stop, checkpoint)


def _loaded(recipe: Recipe) -> tuple[Any, Any]:
    """The recipe's model; ModelError where an adapter to train on belongs to another base."""
    placed = {"dtype": precision(recipe, here()).weights, **sharding.placement(recipe)}
    how = fast.for_recipe(recipe) if recipe.use_unsloth else "transformers"
    model, tokenizer = load_for(recipe, engine=how, **placed)
    folders = split(recipe.adapter_name_or_path)
    path = Path(folders[0]) / checkpoints.BASE if len(folders) == 1 else None
    if path is not None and path.is_file():
        record = json.loads(path.read_text(encoding="utf-8"))
        check_base(model, recipe.model_name_or_path, path.parent, record)
    return model, tokenizer


def naming_data(recipe: Recipe, data: Any) -> Recipe:
    """The recipe with ``dataset`` filled in, where it is empty and ``data`` knows what was read."""
    origin = getattr(data, "origin", None)
    return recipe.replace(dataset=origin) if recipe.dataset is None and origin else recipe


def _prepared(
    recipe: Recipe, model: Any, tokenizer: Any, rows: Data, held_out: Data, own: bool, reward: Any
) -> Setup:
    """The run with its freshly seeded model and its tokenizer, both datasets, the reference."""
    judges = None
    if recipe.stage in rules.ONLINE:
        judges = import_module("ftlab.alignment.rollouts").rewards(recipe, reward)
    elif reward is not None:
        raise RecipeError(f"reward: stage {recipe.stage} samples no answers. Use ppo, grpo, rloo.")
    tokenizer = batches.prepared_tokenizer(tokenizer, recipe)
    batches.check_parity(tokenizer, rows, recipe)
    encoded, report = batches.dataset(tokenizer, rows, recipe)
    encoded_eval = batches.dataset(tokenizer, held_out, recipe)[0] if held_out else None
    reference = reference_for(recipe, model)
    set_seed(recipe.seed)
    base = Path(recipe.model_name_or_path).name
    name = recipe.run_name or f"{base}-{recipe.finetuning_type}-{recipe.stage}"
    hardware = here()
    notices = [*recipe.notices, *precision_notices(recipe, hardware), *optimizers.notice(recipe),
               *engine.notices(recipe, hardware), *report.notices()]  # fmt: skip
    trained = adapt(model, recipe, copied=not own or reference is model)
    if recipe.use_unsloth and reference is model:
        reference = fast.WithoutAdapter(trained)
    machine = engine.describe(recipe, hardware)
    run = Run(recipe, trained, tokenizer, name, notices=notices, machine=machine)
    return Setup(run, encoded, encoded_eval, reference, judges)


def reference_for(recipe: Recipe, model: Any) -> Any:
    """The model that training is held to: ``ref_model``, or the model as it was given.

    ``adapt`` leaves the given model alone and an adapter shares its weights, so that for LoRA the
    reference costs no memory: it is the same base without the new adapter (with an adapter that
    was there before, for a run that trains on with it). None where no reference is needed.
    """
    free = recipe.stage == "dpo" and recipe.pref_loss in rules.REFERENCE_FREE
    if free or recipe.stage in ("pt", "sft", "rm"):
        return None
    if recipe.ref_model:
        changes: dict[str, Any] = {
            "adapter": split(recipe.ref_model_adapters),
            "quantization_bit": recipe.ref_model_quantization_bit,
        }
        return load(recipe.ref_model, **changes)[0]
    copied = recipe.finetuning_type in ("full", "freeze")
    return None if copied and recipe.precompute_ref_log_probs else model


def _bytes_to_save(model: Any) -> int:
    """Room for two checkpoints, each of the trained weights and two Adam moments."""
    weights = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    return 2 * 3 * weights + 10_000_000


class CourseTrainer(Guards, SFTTrainer):
    """TRL's trainer for pt and sft, less its per-step entropy and accuracy."""

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """The plain loss of transformers' Trainer: TRL's entropy costs a tiny model 30 % a step."""
        inputs["use_cache"] = False
        inputs.pop("tokens", None)
        # Trainer takes the sum over processes of a loss over all their tokens: a penalty once.
        with adapters.penalty(self.model, 1 / processes.count()):
            return Trainer.compute_loss(self, model, inputs, *args, **kwargs)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """The order of one process, with the blank rows of ``batches.evened`` at the end."""
        data = self.train_dataset if train_dataset is None else train_dataset
        if len(data) == self.rows:
            return super()._get_train_sampler(data)
        return batches.BlanksLast(super()._get_train_sampler(data.select(range(self.rows))), data)


def _execute(
    setup: Setup,
    hashes: dict[str, str],
    observers: Sequence[Observer],
    stop: threading.Event | None,
    checkpoint: Path | None = None,
) -> Run:
    """Train, and whatever happens leave a truthful status and a folder without halves."""
    run, stop = setup.run, stop or threading.Event()
    before = run.history[-1] if run.history else None
    meter = setup.meter = Meter(torch.device(pick_device().value), before)
    setup.callbacks += [Recorder(run, meter, observers, stop), Alarm(run, setup.quiet)]
    try:
        if run.folder and processes.first():
            _prepare_folder(run, hashes)
        with fast.kernels(run.model, run.recipe):
            trainer = _trainer(setup)
            run.status = _fit(trainer, stop, checkpoint)
        run.summary = summarize(run, meter, *trainable_parameters(run.model))
        run.model.eval()
        if run.folder:
            weights = sharding.weights(trainer)
            if processes.first():
                write_folder(run, hashes, weights)
                _note_status(run.folder, run.status)
            processes.wait()
    finally:
        sharding.forget()
        if run.folder and processes.first():
            checkpoints.unlock(run.folder)
        for observer in observers:
            observer.on_end(run)
    return run


def _trainer(setup: Setup) -> Any:
    """The trainer of the run's stage; see BUILDERS."""
    disable_progress_bars()
    recipe = setup.run.recipe
    if adapters.allocator(setup.run.model):
        setup.callbacks.append(adapters.RankSchedule())
    setup.arguments = common_arguments(recipe, setup.run.folder)
    home = BUILDERS.get(recipe.stage)
    with quiet_loading():
        trainer = import_module(f"ftlab.{home}").build(setup) if home else build(setup)
    trainer.remove_callback(PrinterCallback)
    return trainer


def build(setup: Setup) -> CourseTrainer:
    """The trainer of the stages pt and sft."""
    run, pad = setup.run, setup.run.tokenizer.pad_token_id
    collator: Any = DataCollatorForLanguageModeling(pad)
    if batches.packs(run.recipe):
        collator = batches.PackedCollator(pad, flat=bool(run.recipe.use_unsloth))
    trainer = CourseTrainer(
        model=run.model,
        args=training_arguments(run.recipe, run.folder, len(run.tokenizer)),
        data_collator=collator,
        **setup.parts() | {"train_dataset": batches.evened(setup.rows, run.recipe)},
    )
    trainer.rows = len(setup.rows)
    return trainer


def _fit(trainer: Any, stop: threading.Event, checkpoint: Path | None) -> str:
    """Run the trainer; returns the status of the run."""
    try:
        with interrupt_sets(stop) as interrupted, quiet_loading(), _garbage_left():
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except NotFinite as error:
        trainer.run.notices += [*trainer.skipped_notice(), f"the {error} stopped being finite"]
        return "not finite"
    trainer.run.notices += trainer.skipped_notice()
    if processes.anywhere(interrupted.is_set()):
        return "interrupted"
    return "stopped" if stop.is_set() else "finished"


@contextmanager
def _garbage_left() -> Iterator[None]:
    """Inside, a CPU's run skips the objects there are in collecting garbage: accelerate collects at
    its start and would walk through all that the libraries have loaded, for half a second."""
    if pick_device().value == "cpu":
        gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _prepare_folder(run: Run, hashes: dict[str, str]) -> None:
    assert run.folder is not None
    if not (run.folder / "run.json").is_file():  # else it is resumed, maybe by other processes
        checkpoints.write_text(run.folder / "recipe.yaml", run.recipe.to_yaml())
        # The YAML names a template also where the tokenizer's own was used.
        state = {
            "name": run.name, "data": hashes, "template": run.recipe.template,
            "processes": processes.count(),
        }  # fmt: skip
        checkpoints.write_text(run.folder / "run.json", json.dumps(state, indent=1))
    if adapters.is_adapter(run.model):
        record = base_record(run.model, run.recipe.model_name_or_path)
        if merged := adapters.merged_first(run.recipe):
            record["merged"] = merged  # the hash is that of the base with these in it
        path = run.folder / checkpoints.BASE
        before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else record
        if before.get("sha256") != record.get("sha256"):
            raise CheckpointError(f"{run.folder}: the base model changed since this run began.")
        checkpoints.write_text(path, json.dumps(before, indent=1))


def _note_status(folder: Path, status: str) -> None:
    """Say in run.json how the run ended: one that was stopped can go on."""
    state = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    checkpoints.write_text(folder / "run.json", json.dumps(state | {"status": status}, indent=1))


def _tracker(recipe: Recipe) -> list[Observer]:
    if not recipe.use_swanlab:
        return []
    from ftlab.tracking import SwanLab

    return [SwanLab(recipe)]


def _advised(run: Run, quiet: bool) -> Run:
    """The run, and on stderr what to do where its loss or gradient stopped being finite."""
    if run.status == "not finite" and not quiet:
        print(_not_finite_advice(run), file=sys.stderr)
    return run


def _not_finite_advice(run: Run) -> str:
    step = int(run.history[-1]["step"]) + 1 if run.history else 1
    return (
        f"Stopped at step {step}: {run.notices[-1]}. The weights are those before this step. "
        f"Lower learning_rate (now {run.recipe.learning_rate:g}), warm up longer, or clip harder."
        + (" bf16 has a wider range than fp16." if run.recipe.fp16 else "")
    )
