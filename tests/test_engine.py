"""Which engine trains, in which precision, and that Unsloth's patches stay in its own process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from importlib import import_module
from pathlib import Path

import pytest
import torch
import trl
import yaml
from transformers import AutoModelForCausalLM

import ftlab
from ftlab import engine, hardware
from ftlab.arguments import common_arguments
from ftlab.batches import PackedCollator
from ftlab.engine import fast
from ftlab.guards import NotFinite
from ftlab.hardware import Hardware, precision, precision_notices
from ftlab.train import CourseTrainer

T4 = Hardware("cuda", "Tesla T4", (7, 5), bf16=False, memory=16 * 2**30)
L4 = Hardware("cuda", "NVIDIA L4", (8, 9), bf16=True, memory=24 * 2**30)
OLD = Hardware("cuda", "Tesla P100", (6, 0), bf16=False, memory=16 * 2**30)
CPU = Hardware()
ALL = frozenset(hardware.KERNELS)
STANDINS = str(Path(__file__).parent / "standins")
BIG = "Qwen/Qwen3-0.6B"


# --- precision ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "machine", "compute", "weights", "autocast"),
    [
        ({}, CPU, "float32", "float32", None),
        ({"bf16": True}, CPU, "float32", "float32", None),
        ({}, L4, "bfloat16", "bfloat16", "bf16"),
        ({}, T4, "float16", "float16", "fp16"),
        ({"bf16": True}, T4, "float16", "float16", "fp16"),
        ({"fp16": True}, L4, "float16", "float16", "fp16"),
        ({"finetuning_type": "full"}, L4, "bfloat16", "float32", "bf16"),
        ({"finetuning_type": "full", "pure_bf16": True}, L4, "bfloat16", "bfloat16", None),
        ({"finetuning_type": "full", "pure_bf16": True}, T4, "float16", "float32", "fp16"),
        ({"finetuning_type": "freeze"}, T4, "float16", "float16", "fp16"),
        ({"quantization_bit": 4}, T4, "float16", "float16", "fp16"),
    ],
)
def test_precision_follows_from_what_the_card_can_and_the_recipe_asks(
    keys, machine, compute, weights, autocast
):
    found = precision(ftlab.Recipe(**keys), machine)
    assert found[:3] == (compute, weights, autocast)


def test_precision_is_announced_with_its_reason():
    assert precision_notices(ftlab.Recipe(), CPU) == []
    assert (
        "bfloat16 asked for, float32 used: cpu"
        in precision_notices(ftlab.Recipe(bf16=True), CPU)[0]
    )
    said = precision_notices(ftlab.Recipe(), T4)[0]
    assert said.startswith("precision: float16 (Tesla T4 (capability 7.5) has no bf16 hardware")
    wrong = precision_notices(ftlab.Recipe(bf16=True), T4)[0]
    assert wrong.startswith("bfloat16 asked for, float16 used: Tesla T4")


def test_the_trainer_is_told_the_precision_of_the_card(monkeypatch):
    monkeypatch.setattr("ftlab.arguments.here", lambda: T4)
    told = common_arguments(ftlab.Recipe(bf16=True))
    assert told["fp16"] and not told["bf16"] and told["dataloader_pin_memory"]


def test_what_trains_is_kept_in_fp32_beside_a_16_bit_computation(monkeypatch):
    """An update below 2^-8 of a bf16 weight is rounded away: full tuning would stand still."""
    model = ftlab.load("tiny", dtype="bfloat16")[0]
    recipe = ftlab.Recipe(finetuning_type="freeze", freeze_trainable_layers=1)
    monkeypatch.setattr("ftlab.adapters.attach.here", lambda: L4)
    trained = ftlab.adapters.adapt(model, recipe)
    kinds = {p.requires_grad: p.dtype for p in trained.parameters()}
    assert kinds == {True: torch.float32, False: torch.bfloat16}
    pure = ftlab.adapters.adapt(model, recipe.replace(pure_bf16=True))
    assert {p.dtype for p in pure.parameters()} == {torch.bfloat16}


@pytest.fixture
def trainer(tiny):
    """A trainer of ours, made but not run, whose accelerator scales as on a T4."""
    made = {}

    class Keeps(CourseTrainer):
        def train(self, *args, **kwargs):
            made["trainer"] = self
            raise NotFinite("loss")

    patch = pytest.MonkeyPatch()
    patch.setattr(import_module("ftlab.train"), "CourseTrainer", Keeps)
    ftlab.train(
        ftlab.Recipe(max_steps=1), ftlab.read("world_qa").take(8), model=tiny[0],
        tokenizer=tiny[1], save=False, quiet=True,
    )  # fmt: skip
    patch.undo()
    return made["trainer"]


def test_an_overflow_in_fp16_costs_a_step_and_a_scale_of_one_ends_the_run(trainer):
    """The scaler leaves overflowing steps out; with weights that overflow it would do so for
    ever, and the run would look as if it learned nothing."""
    scaler = trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    for _ in range(2):  # 4 -> 2 -> 1
        weight.grad = None
        scaler.scale(weight.sum() * torch.inf).backward()
        scaler.unscale_(optimizer)
        assert trainer._get_grad_norm(trainer.model, weight.grad.norm()) == torch.inf
        scaler.step(optimizer)
        scaler.update()
    assert scaler.get_scale() == 1.0 and weight.item() == 1.0
    assert trainer.skipped_notice() == [
        "2 steps left out: a gradient overflowed in float16, and the loss scale was halved."
    ]
    with pytest.raises(NotFinite, match="in float16, loss scale 1"):
        trainer._get_grad_norm(trainer.model, torch.tensor(torch.inf))


def test_without_scaling_the_first_infinite_gradient_ends_the_run(trainer):
    assert trainer.accelerator.scaler is None and not trainer.skipped_notice()
    with pytest.raises(NotFinite, match="^gradient$"):
        trainer._get_grad_norm(trainer.model, torch.tensor(torch.nan))


# --- attention and kernels ------------------------------------------------------------------------


def test_flash_attn_has_llamafactorys_words():
    assert hardware.attention("auto", CPU, []) is None
    assert hardware.attention("sdpa", CPU, []) == "sdpa"
    assert hardware.attention("disabled", CPU, []) == "eager"
    assert hardware.attention("fa2", L4, ALL) == "flash_attention_2"


@pytest.mark.parametrize(
    ("machine", "found", "message"),
    [
        (CPU, ALL, r"capability 8.0 or later .*; here is cpu \(no CUDA device found\)"),
        (T4, ALL, r"here is Tesla T4 \(capability 7.5\). Use flash_attn: sdpa"),
        (L4, (), "not installed: pip install flash-attn"),
    ],
)
def test_flash_attention_2_is_refused_where_it_cannot_run(machine, found, message):
    with pytest.raises(ftlab.EnvironmentProblem, match=message):
        engine.settle(ftlab.Recipe(flash_attn="fa2"), hardware=machine, found=found)


@pytest.mark.parametrize(
    ("machine", "found", "message"), [(CPU, ALL, "run on a GPU"), (L4, (), "liger-kernel")]
)
def test_liger_is_refused_where_it_cannot_run(machine, found, message):
    with pytest.raises(ftlab.EnvironmentProblem, match=f"enable_liger_kernel: .*{message}"):
        engine.settle(ftlab.Recipe(enable_liger_kernel=True), hardware=machine, found=found)
    settled, _ = engine.settle(
        ftlab.Recipe(enable_liger_kernel=True), hardware=L4, found=["liger_kernel"]
    )
    assert settled.enable_liger_kernel and not settled.use_unsloth


def test_eager_and_sdpa_attention_give_the_same_losses(tiny):
    data = ftlab.read("world_qa").take(16)
    keys = {"max_steps": 2, "neat_packing": True, "cutoff_len": 64}
    losses = []
    for how, name in (("sdpa", "sdpa"), ("disabled", "eager")):
        run = ftlab.train(ftlab.Recipe(**keys, flash_attn=how), data, save=False, quiet=True)
        assert run.model.config._attn_implementation == name
        losses.append([record["loss"] for record in run.history])
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_ligers_patches_end_with_the_run(monkeypatch, tiny):
    """Liger puts its rotary embedding, a GPU's, where every Qwen3 of the process finds it."""
    home = sys.modules[type(tiny[0]).__module__]
    before, seen = home.apply_rotary_pos_emb, {}

    class Package:
        MODEL_TYPE_TO_APPLY_LIGER_FN = {"qwen3": None}

        @staticmethod
        def _apply_liger_kernel_to_instance(model, **options):
            home.apply_rotary_pos_emb = "a kernel"
            seen.update(options, model=model)

    for name in ("liger_kernel", "liger_kernel.transformers",
                 "liger_kernel.transformers.monkey_patch"):  # fmt: skip
        monkeypatch.setitem(sys.modules, name, Package)
    with fast.kernels(tiny[0], ftlab.Recipe(enable_liger_kernel=True)):
        assert home.apply_rotary_pos_emb == "a kernel"
    assert home.apply_rotary_pos_emb is before
    assert seen.pop("model") is tiny[0]
    assert seen == {"fused_linear_cross_entropy": True, "cross_entropy": False}
    with fast.kernels(tiny[0], ftlab.Recipe(stage="dpo", enable_liger_kernel=True)):
        assert not seen["fused_linear_cross_entropy"]  # DPO needs the logits


def test_use_unsloth_gc_without_a_gpu_recomputes_and_says_so():
    run = ftlab.train(
        ftlab.Recipe(max_steps=1, use_unsloth_gc=True), ftlab.read("world_qa").take(8),
        save=False, quiet=True,
    )  # fmt: skip
    assert run.model.is_gradient_checkpointing
    assert any(
        note.startswith("use_unsloth_gc: activations are recomputed") for note in run.notices
    )


def test_torch_compile_reaches_the_trainer_and_its_cost_is_announced():
    recipe = ftlab.Recipe(torch_compile=True)
    assert common_arguments(recipe)["torch_compile"]
    assert "first steps compile" in engine.notices(recipe, CPU)[0]


# --- which engine ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "machine", "found", "given", "expected"),
    [
        ({}, L4, ALL, False, "unsloth"),
        ({}, T4, ALL, False, "unsloth"),
        ({}, CPU, ALL, False, "no NVIDIA GPU"),
        ({}, OLD, ALL, False, "capability 7.0"),
        ({}, L4, (), False, "not installed"),
        ({}, L4, ALL, True, "loaded before"),
        ({"model_name_or_path": "tiny"}, L4, ALL, False, "small model"),
        ({"stage": "kto"}, L4, ALL, False, "stages pt, sft and dpo"),
        ({"finetuning_type": "ia3"}, L4, ALL, False, "lora and full"),
    ],
)
def test_auto_takes_unsloth_where_it_runs_and_knows_the_recipe(
    keys, machine, found, given, expected
):
    recipe = ftlab.Recipe(**{"model_name_or_path": BIG, **keys})
    chosen = engine.choose(recipe, machine, found, given=given)
    assert expected in (chosen.value if expected == "unsloth" else chosen.reason)
    settled, notes = engine.settle(recipe, hardware=machine, found=found, given=given)
    assert settled.use_unsloth == (expected == "unsloth") == bool(notes)


def test_auto_leaves_several_processes_to_transformers(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    recipe = ftlab.Recipe(model_name_or_path=BIG)
    assert engine.choose(recipe, L4, ALL) == ("transformers", "several processes")


@pytest.mark.parametrize(
    ("machine", "found", "message"),
    [
        (CPU, ALL, "wants an NVIDIA GPU, and here is cpu"),
        (OLD, ALL, "capability 7.0 or later, and here is Tesla P100"),
        (L4, (), "not installed: pip install 'ftlab"),
    ],
)
def test_unsloth_that_was_asked_for_is_refused_where_it_cannot_run(machine, found, message):
    with pytest.raises(ftlab.EnvironmentProblem, match=f"use_unsloth: .*{message}"):
        engine.settle(ftlab.Recipe(use_unsloth=True), hardware=machine, found=found)


def test_without_a_gpu_the_sentence_comes_before_anything_is_loaded(monkeypatch, tmp_path):
    home = import_module("ftlab.train")
    monkeypatch.setattr(home, "load_for", lambda *a, **k: pytest.fail("a model was loaded"))
    recipe = ftlab.Recipe(use_unsloth=True, output_dir=str(tmp_path / "out"))
    with pytest.raises(ftlab.EnvironmentProblem, match="wants an NVIDIA GPU"):
        ftlab.train(recipe, ftlab.read("world_qa").take(8))
    with pytest.raises(ftlab.EnvironmentProblem, match="engine='unsloth': .*NVIDIA"):
        ftlab.load("tiny", engine="unsloth")
    assert not (tmp_path / "out").exists() and "unsloth" not in sys.modules


def test_an_engine_that_is_not_known_names_those_that_are():
    with pytest.raises(ftlab.ModelError, match="choose one of auto, transformers, unsloth"):
        ftlab.load("tiny", engine="vllm")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"stage": "kto"}, "stage=kto: it trains stages pt, sft and dpo here"),
        ({"stage": "ppo"}, "stage=ppo"),
        ({"finetuning_type": "ia3"}, "finetuning_type=ia3"),
        ({"finetuning_type": "freeze"}, "finetuning_type=freeze"),
        ({"use_dora": True}, "do not know DoRA"),
        ({"pissa_init": True}, "another start of LoRA"),
        ({"quantization_bit": 8}, "another quantization"),
        ({"quantization_bit": 4, "quantization_type": "fp4"}, "another quantization"),
        ({"additional_target": "embed_tokens"}, "additional_target"),
        ({"adapter_name_or_path": "runs/first"}, "merge that adapter first"),
        ({"stage": "dpo", "ref_model": BIG}, "ref_model"),
        ({"stage": "dpo", "finetuning_type": "full"}, "precompute_ref_log_probs: true avoids"),
        ({"rope_scaling": "yarn"}, "rope_scaling"),
        ({"enable_liger_kernel": True}, "enable_liger_kernel"),
        ({"torch_compile": True}, "compiles by itself"),
    ],
)
def test_what_is_not_trained_with_unsloth_here_is_refused_in_the_recipe(keys, message):
    with pytest.raises(ftlab.RecipeError, match=f"use_unsloth with .*{message}"):
        ftlab.Recipe(use_unsloth=True, **keys)
    ftlab.Recipe(use_unsloth=False, **keys)


def test_a_loaded_model_and_unsloth_exclude_each_other(tiny, monkeypatch):
    monkeypatch.setattr("ftlab.engine.pick.here", lambda: L4)
    with pytest.raises(ftlab.RecipeError, match="Unsloth loads the model itself"):
        ftlab.train(
            ftlab.Recipe(use_unsloth=True), ftlab.read("world_qa").take(8),
            model=tiny[0], tokenizer=tiny[1],
        )  # fmt: skip


def test_unsloth_is_not_imported_where_it_would_be_too_late():
    with pytest.raises(ftlab.EnvironmentProblem, match="before transformers, trl, peft, which"):
        engine.begin()
    assert "unsloth" not in sys.modules


def test_a_packed_batch_for_unsloth_is_one_row():
    windows = [
        {"input_ids": [5, 6, 7], "labels": [5, 6, 7], "seq_lengths": [2, 1]},
        {"input_ids": [8, 9], "labels": [8, 9], "seq_lengths": [2]},
    ]
    batch = PackedCollator(0, flat=True)(windows)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9]]
    assert batch["position_ids"].tolist() == [[0, 1, 0, 0, 1]]
    assert batch["labels"].tolist() == [[-100, 6, -100, -100, 9]]
    assert batch["tokens"].item() == 5


# --- a process of its own -------------------------------------------------------------------------


@pytest.fixture
def standin(monkeypatch):
    """Unsloth's stand-in for child processes; this process can find it too, and must not import it.

    UNSLOTH_FORCE_CPU is Unsloth's own switch to its backend for CPUs.
    """
    monkeypatch.setenv("UNSLOTH_FORCE_CPU", "1")
    monkeypatch.setenv("PYTHONPATH", STANDINS)
    monkeypatch.syspath_prepend(STANDINS)
    yield
    assert "unsloth" not in sys.modules, "Unsloth came into the parent"
    assert not hasattr(trl.SFTTrainer, "patched_by_unsloth")


class Witness:
    """An observer that keeps what it is told, and asks to stop at a step."""

    def __init__(self, stop_at=None):
        self.told, self.stop, self.stop_at = [], threading.Event(), stop_at

    def on_start(self, run):
        self.told.append(("start", run.total_steps))

    def on_log(self, run, record):
        self.told.append(("log", record["step"]))
        if record["step"] == self.stop_at:
            self.stop.set()

    def on_end(self, run):
        self.told.append(("end", run.status))


def logits(model):
    with torch.no_grad():
        return model(torch.arange(20, 40)[None]).logits


BRIEF = {"max_steps": 2, "learning_rate": 1e-3, "per_device_train_batch_size": 4}


def test_a_run_with_unsloth_is_a_run_like_any_other(standin, tmp_path):
    data, witness = ftlab.read("world_qa").take(16), Witness()
    recipe = ftlab.Recipe(**BRIEF, use_unsloth=True, output_dir=str(tmp_path / "fast"))
    run = ftlab.train(recipe, data, observers=[witness], quiet=True)
    plain = ftlab.train(recipe.replace(use_unsloth=False, output_dir=None), data, save=False)
    assert [r["loss"] for r in run.history] == [r["loss"] for r in plain.history]
    assert witness.told == [("start", 2), ("log", 1), ("log", 2), ("end", "finished")]
    assert run.status == "finished" and run.summary["steps"] == 2
    assert run.machine["engine"] == "unsloth stand-in"
    assert torch.equal(logits(run.model), logits(plain.model))
    # What it left behind is PEFT's, and says how it was made.
    again = ftlab.load("tiny", adapter=run.folder)[0]
    assert torch.equal(logits(again), logits(plain.model))
    ftlab.merge(run.folder, tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert torch.allclose(logits(merged), logits(plain.model), atol=1e-4)
    assert "- engine: unsloth" in (run.folder / "README.md").read_text()
    assert yaml.safe_load((run.folder / "recipe.yaml").read_text())["use_unsloth"] is True


@pytest.mark.parametrize(
    ("keys", "data"),
    [
        ({"stage": "dpo", "quantization_bit": 4}, "polite_pairs"),
        ({"finetuning_type": "full", "neat_packing": True, "cutoff_len": 128}, "world_qa"),
    ],
    ids=["dpo on 4 bits", "full, packed"],
)
def test_with_unsloth_the_losses_are_those_of_our_ids_and_labels(standin, keys, data):
    recipe, rows = ftlab.Recipe(**BRIEF, **keys), ftlab.read(data).take(16)
    runs = [
        ftlab.train(recipe.replace(use_unsloth=how), rows, save=False, quiet=True)
        for how in (True, False)
    ]
    losses = [[record["loss"] for record in run.history] for run in runs]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    if recipe.stage == "dpo":  # the reference is the base without the adapter
        kl = [[record["kl"] for record in run.history] for run in runs]
        assert kl[0] == pytest.approx(kl[1], abs=1e-6) and kl[0][0] == 0 < kl[0][1]


def test_a_run_in_another_process_can_be_stopped_and_resumed(standin, tmp_path):
    witness = Witness(stop_at=2)
    keys = {**BRIEF, "max_steps": 400, "save_steps": 1, "save_total_limit": 1}
    recipe = ftlab.Recipe(**keys, use_unsloth=True, output_dir=str(tmp_path / "out"),
                          dataset="world_qa", max_samples=16)  # fmt: skip
    run = ftlab.train(recipe, observers=[witness], stop=witness.stop, quiet=True)
    done = run.summary["steps"]
    assert run.status == "stopped" and 2 <= done < 400
    stop = threading.Event()
    stop.set()
    again = ftlab.resume(run.folder, stop=stop)
    assert again.history[: done - 1] == run.history[: done - 1]
    assert again.history[-1]["step"] == done + 1


def test_what_goes_wrong_in_the_other_process_is_raised_here(standin, tmp_path, monkeypatch):
    rows = ftlab.read("world_qa").take(8)
    with pytest.raises(ftlab.RecipeError, match="lora_target: no module 'nowhere'"):
        ftlab.train(
            ftlab.Recipe(use_unsloth=True, lora_target="nowhere"), rows, save=False, quiet=True
        )
    monkeypatch.setenv("STANDIN_BREAKS", "1")
    with pytest.raises(ftlab.EnvironmentProblem, match="does not start here: no torch accelerator"):
        ftlab.train(ftlab.Recipe(use_unsloth=True), rows, save=False, quiet=True)


def test_a_process_that_dies_is_reported_with_the_end_of_its_output(monkeypatch, standin, tmp_path):
    (tmp_path / "unsloth.py").write_text("print('out of luck', flush=True)\nimport os; os._exit(9)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(ftlab.EnvironmentProblem, match=r"(?s)exit code 9\).*out of luck"):
        ftlab.train(
            ftlab.Recipe(use_unsloth=True), ftlab.read("world_qa").take(8), save=False, quiet=True
        )


def test_the_command_line_imports_unsloth_first_and_needs_no_second_process(standin, tmp_path):
    """There nothing else is imported yet; a second process would load everything twice."""
    keys = {"model_name_or_path": "tiny", "dataset": "world_qa", "max_samples": 8, "max_steps": 1,
            "use_unsloth": True, "output_dir": str(tmp_path / "out")}  # fmt: skip
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(keys))
    code = (
        "import sys\nfrom ftlab import cli; from ftlab.engine import apart\napart.run = None\n"
        f"code = cli.main(['train', {str(tmp_path / 'train.yaml')!r}])\n"
        "import trl, unsloth\n"
        "assert trl.SFTTrainer.patched_by_unsloth and not unsloth.LATE\nsys.exit(code)"
    )
    root = str(Path(ftlab.__file__).parents[1])
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([root, STANDINS])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    assert "finished: 1 steps" in done.stdout and "greeting" not in done.stdout
    record = json.loads((tmp_path / "out" / "history.jsonl").read_text().splitlines()[0])
    assert record["loss"] > 0
