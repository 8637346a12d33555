"""One cell of the GPU benchmark in a process of its own: a model trained by one system.

`python -m benchmarks.gpu_cell '{"system": ..., ...}'` prints a record in JSON as its last line;
`python -m benchmarks.gpu_cell device` prints what the device is. Nothing that Unsloth patches may
be imported before Unsloth, so libraries are imported inside functions.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import logging
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

from benchmarks.gpu_clock import Clock, Tally, matmul_tflops, memory
from benchmarks.gpu_figures import flops_per_token, published_peak
from benchmarks.gpu_models import shape
from benchmarks.gpu_rows import rows, span

RANK, ALPHA, LEARNING_RATE, CLIP = 16, 32, 1e-4, 1.0
LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
Cell = dict[str, Any]
Record = dict[str, Any]


class Missing(Exception):
    """What this cell needs is not there; the message says what."""


def main(words: str) -> Record:
    """The record of a cell: its figures, or why there are none."""
    if words == "device":
        return device()
    cell = json.loads(words)
    try:
        return {"status": "ok", "reason": None, **measure(cell)}
    except Missing as error:
        return {"status": "not available", "reason": str(error)}
    except Exception as error:  # whatever the libraries raise is the cell's result
        kind = type(error).__name__
        status = "out of memory" if "OutOfMemory" in kind else "failed"
        first = (str(error).strip() or kind).splitlines()[0]
        return {"status": status, "reason": f"{kind}: {first}"[:400]}


def device() -> Record:
    """The GPU: name, memory, published and measured speed."""
    import torch

    if not torch.cuda.is_available():
        sys.exit("PyTorch sees no NVIDIA GPU here. --device cpu --models smoke checks the program.")
    properties = torch.cuda.get_device_properties(0)
    name = properties.name
    return {
        "name": name, "memory": properties.total_memory, "free": torch.cuda.mem_get_info()[0],
        "capability": ".".join(map(str, torch.cuda.get_device_capability(0))),
        "cuda": torch.version.cuda, "cores": os.cpu_count(),
        "peak_tflops": published_peak(name), "matmul_tflops": matmul_tflops(),
    }  # fmt: skip


def measure(cell: Cell) -> Record:
    """Train as the cell says, and measure."""
    began = time.time()
    check(cell)
    first_of_all(cell["system"])
    import torch
    from transformers import set_seed

    set_seed(0)
    logging.getLogger("trl").setLevel(logging.ERROR)
    free = torch.cuda.mem_get_info()[0] if cell["device"] == "cuda" else None
    clock, tally = Clock(cell["device"], cell["steps"], cell["warm"]), Tally()
    found = SYSTEMS[cell["system"]](cell, clock, tally)
    timed = clock.figures()
    counted = tally.per_step(timed["warm_up_steps"], timed["steps"])
    seconds = timed["step_ms"]["median"] / 1000
    if cell["track"] == "B":  # batches differ: their mean goes with the mean time
        seconds = sum(clock.times[clock.warm :]) / timed["steps"]
    rates = {name: count / seconds for name, count in counted.items()}
    return compared({
        **timed, **memory(clock), **found, **utilization(cell, rates["tokens"]),
        "startup_seconds": clock.started - began, "free_at_start": free,
        "tokens_per_step": counted, "tokens_per_second": rates,
    })  # fmt: skip


def compared(record: Record) -> Record:
    """The record with what ftlab.estimate predicted divided by what was measured."""
    known = record.get("predicted") or {}
    measured = {"peak": record["peak_allocated"], "seconds": record["step_ms"]["median"] / 1000}
    for name, value in measured.items():
        if value and known.get(name):
            known[f"{name}_ratio"] = known[name] / value
    return record


def first_of_all(system: str) -> None:
    """Import Unsloth where it is used: directly, or as ftlab does, with its settings."""
    if system == "ftlab-unsloth":
        from ftlab import engine

        engine.begin()
    elif system.endswith("unsloth"):
        importlib.import_module("unsloth")


def check(cell: Cell) -> None:
    """Raise Missing where a package or a GPU is not there."""
    wanted = {"trl-liger": ["liger_kernel"], "unsloth": ["unsloth"], "ftlab-unsloth": ["unsloth"]}
    needed = wanted.get(cell["system"], []) + (
        ["bitsandbytes"] if cell["method"] == "qlora" else []
    )
    for module in needed:
        if importlib.util.find_spec(module) is None:
            raise Missing(f"the package {module} is not installed")
    if cell["system"] in wanted and cell["device"] == "cpu":
        raise Missing(f"{cell['system']} needs a GPU")


def utilization(cell: Cell, tokens_per_second: float) -> Record:
    """Model FLOP/s (see gpu_figures.CONVENTION), as shares of the published peak and of the matrix
    products measured in the same call."""
    length = cell["length"]
    if cell["track"] == "B":
        length = span(rows("B", cell["model"], length))
    rate = flops_per_token(shape(cell["model"]), RANK, length) * tokens_per_second / 1e12
    peaks = {"mfu": cell.get("peak_tflops"), "mfu_matmul": cell.get("matmul_tflops")}
    shares = {name: rate / peak if peak else None for name, peak in peaks.items()}
    return {"tflops": rate, **shares}


# --- TRL and Unsloth, as their documentation calls them ------------------------------------------


def with_trl(cell: Cell, clock: Clock, tally: Tally) -> Record:
    """Plain TRL: transformers loads, PEFT adapts, SFTTrainer trains."""
    import torch
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    dtype = torch.bfloat16 if cell["device"] == "cuda" else torch.float32
    quantized = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(
        cell["folder"], dtype=dtype, device_map={"": 0 if cell["device"] == "cuda" else "cpu"},
        quantization_config=quantized if cell["method"] == "qlora" else None,
    )  # fmt: skip
    adapter = LoraConfig(
        r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=LAYERS, task_type="CAUSAL_LM"
    )
    own = {"packing": cell["system"] == "trl-packed" and cell["track"] == "B"}
    if cell["system"] == "trl-liger":
        own |= {"use_liger_kernel": True, "loss_type": "nll"}
    tokenizer = AutoTokenizer.from_pretrained(cell["folder"])
    return fit(cell, clock, tally, model, tokenizer, own, peft_config=adapter)


def with_unsloth(cell: Cell, clock: Clock, tally: Tally) -> Record:
    """Unsloth's own API; on track B with its packing."""
    import torch

    FastLanguageModel = importlib.import_module("unsloth").FastLanguageModel
    model, tokenizer = FastLanguageModel.from_pretrained(
        model_name=cell["folder"], max_seq_length=cell["length"], dtype=torch.bfloat16,
        load_in_4bit=cell["method"] == "qlora", load_in_16bit=cell["method"] == "lora",
        local_files_only=True, use_gradient_checkpointing=_offloaded(cell),
    )  # fmt: skip
    model = FastLanguageModel.get_peft_model(
        model, r=RANK, target_modules=LAYERS, lora_alpha=ALPHA, lora_dropout=0.0, bias="none",
        use_gradient_checkpointing=_offloaded(cell), random_state=0,
    )  # fmt: skip
    own = {"packing": cell["track"] == "B", "dataset_kwargs": {"skip_prepare_dataset": True}}
    return fit(cell, clock, tally, model, tokenizer, own)


def _offloaded(cell: Cell) -> str | bool:
    return "unsloth" if cell["checkpointing"] == "on" else False


def fit(
    cell: Cell, clock: Clock, tally: Tally, model: Any, tokenizer: Any, own: Record, **parts: Any
) -> Record:
    """Train with SFTTrainer on ids and labels; what was set, and the first loss."""
    from transformers import PrinterCallback, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    class Ticks(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            clock.begin()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_log = True
            control.should_training_stop = clock.tick()

    on_gpu = cell["device"] == "cuda"
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "gradient_checkpointing": cell["checkpointing"] == "on", **own, "bf16": on_gpu,
            "use_cpu": not on_gpu, "per_device_train_batch_size": cell["batch"],
            "gradient_accumulation_steps": 1, "max_steps": clock.most, "optim":
            "adamw_torch_fused", "learning_rate": LEARNING_RATE, "max_grad_norm": CLIP,
            "lr_scheduler_type": "constant", "train_sampling_strategy": "sequential",
            "max_length": cell["length"], "seed": 0,
        }  # fmt: skip
        trainer = SFTTrainer(
            model=model, processing_class=tokenizer, train_dataset=dataset(cell, own),
            args=SFTConfig(output_dir=folder, logging_steps=1, save_strategy="no", report_to=[],
                           disable_tqdm=True, dataset_num_proc=None, **settings),
            callbacks=[Ticks()], **parts,
        )  # fmt: skip
        if own["packing"] and not trainer.args.packing:
            raise Missing("packing was asked for and turned off")
        trainer.remove_callback(PrinterCallback)
        tally.watch(trainer)
        trainer.train()
    chosen = {key: getattr(trainer.args, key, None) for key in ("loss_type", "padding_free")}
    settings |= chosen | {"batch": tally.keys}
    return {"first_loss": trainer.state.log_history[0]["loss"], "settings": settings}


def dataset(cell: Cell, own: Record) -> Any:
    """The rows as ids and labels; in windows where the trainer is told not to pack them itself."""
    from datasets import Dataset, disable_progress_bars
    from trl import pack_dataset

    disable_progress_bars()
    found = rows(cell["track"], cell["model"], cell["length"])
    columns = {"input_ids": [row.ids for row in found], "labels": [row.labels for row in found]}
    made = Dataset.from_dict(columns)
    return (
        pack_dataset(made, cell["length"], "bfd")
        if own["packing"] and "dataset_kwargs" in own
        else made
    )


# --- ftlab ---------------------------------------------------------------------------------------


def with_ftlab(cell: Cell, clock: Clock, tally: Tally) -> Record:
    """ftlab.train on the same rows as text; on track B with packing."""
    import ftlab
    from ftlab.guards import Guards

    recipe = recipe_of(cell, clock.most)
    tally.watch(Guards)
    stop = threading.Event()

    class Ticks:
        def on_start(self, run: Any) -> None:
            clock.begin()

        def on_log(self, run: Any, record: dict[str, float]) -> None:
            if clock.tick():
                stop.set()

        def on_end(self, run: Any) -> None:
            pass

    data = [row.source for row in rows(cell["track"], cell["model"], cell["length"])]
    run = ftlab.train(recipe, data, observers=[Ticks()], stop=stop, save=False, quiet=True)
    if run.status not in ("finished", "stopped"):
        raise RuntimeError(f"the run ended as {run.status}: {' '.join(run.notices)}")
    settings = {key: value[1] for key, value in recipe.changes_from(type(recipe)()).items()}
    plain = cell["system"] == "ftlab"  # what is predicted is a run without Unsloth's kernels
    settings["batch"] = tally.keys
    return {
        "first_loss": run.history[0]["loss"], "settings": settings,
        "predicted": predicted(recipe) if plain else None,
    }  # fmt: skip


def recipe_of(cell: Cell, steps: int) -> Any:
    """The cell as a recipe; raises Missing where this ftlab lacks a key that it needs."""
    from ftlab.recipe import KNOBS, Recipe

    values: Record = {
        "stage": "pt" if cell["track"] == "A" else "sft", "neat_packing": cell["track"] == "B",
        "model_name_or_path": cell["folder"], "cutoff_len": cell["length"],
        "finetuning_type": "lora", "lora_rank": RANK, "lora_alpha": ALPHA, "lora_dropout": 0.0,
        "lora_target": ",".join(LAYERS), "learning_rate": LEARNING_RATE, "max_grad_norm": CLIP,
        "quantization_bit": 4 if cell["method"] == "qlora" else None, "max_steps": steps,
        "per_device_train_batch_size": cell["batch"], "lr_scheduler_type": "constant",
        "gradient_checkpointing": cell["checkpointing"] == "on", "bf16": cell["device"] == "cuda",
        "train_sampling_strategy": "sequential", "save_strategy": "no", "seed": 0,
    }  # fmt: skip
    asked = cell["system"] == "ftlab-unsloth"
    if asked and "use_unsloth" not in KNOBS:
        raise Missing("this ftlab has no key use_unsloth")
    if "use_unsloth" in KNOBS:
        values["use_unsloth"] = asked
    if asked:  # as in `unsloth`: its own checkpointing in place of PyTorch's
        values["use_unsloth_gc"] = values.pop("gradient_checkpointing")
    return Recipe(**values)


def predicted(recipe: Any) -> Record:
    """What ftlab.estimate says of the recipe, or why it says nothing."""
    import ftlab

    try:
        found = ftlab.estimate(recipe)
        return {"peak": found.peak, "seconds": found.seconds}
    except Exception as error:  # a prediction that fails is no reason to lose a measurement
        return {"error": f"{type(error).__name__}: {error}"[:200]}


SYSTEMS: dict[str, Callable[[Cell, Clock, Tally], Record]] = {
    "trl": with_trl, "trl-packed": with_trl, "trl-liger": with_trl, "unsloth": with_unsloth,
    "ftlab": with_ftlab, "ftlab-unsloth": with_ftlab,
}  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
