"""The GPU benchmark, as far as it goes without one: real cells on a CPU, and the arithmetic."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks import gpu, gpu_cell, gpu_clock, gpu_figures, gpu_models, gpu_rows

ROOT = Path(__file__).parents[1]
BATCH, LENGTH, STEPS, WARM = 4, 128, 3, 2
COMMAND = (
    "--device cpu --models smoke --methods lora --checkpointing off "
    f"--batches {BATCH} --length {LENGTH} --steps {STEPS} --warm {WARM}"
).split()
FULL = ("--tracks", "A", "--systems", "trl", "ftlab", "unsloth")


def bench(folder, *more):
    """The command in a process of its own: what it printed, and what it wrote."""
    command = [sys.executable, "-m", "benchmarks.gpu", *COMMAND, "--cache", str(folder / "models"),
               "--out", str(folder / "found.json"), *more]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    return done.stdout, json.loads((folder / "found.json").read_text())


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    bench(folder, "--tracks", "B", "--systems", "ftlab")
    return folder, *bench(folder, *FULL)


def cell_of(found, system, track):
    return next(c for c in found["cells"] if (c["system"], c["track"]) == (system, track))


def test_the_file_has_what_the_notebook_draws(measured):
    _, said, found = measured
    assert len(found["cells"]) == 4 and found["length"] == LENGTH
    assert found["device"]["name"] == "cpu" and found["convention"] == gpu_figures.CONVENTION
    for record in found["cells"]:
        assert {"commit", "code", "versions", "seconds", "reason", *gpu_figures.GROUP} <= set(
            record
        )
        if record["system"] == "unsloth":
            assert record["status"] == "not available" and record["reason"]
            continue
        assert record["status"] == "ok", record["reason"]
        assert record["steps"] == STEPS and record["warm_up_steps"] <= WARM
        assert record["step_ms"]["p20"] <= record["step_ms"]["median"] <= record["step_ms"]["p80"]
        assert 50e6 < record["resident"] < 5e9 and record["peak_allocated"] is None
        assert record["startup_seconds"] > 0 and record["first_step_seconds"] > 0
        assert record["tflops"] > 0 and record["mfu"] is None and record["settings"]
    assert said.count("not measured") == 4 and "first losses differ" not in said


def test_full_rows_count_every_token_and_give_equal_first_losses(measured):
    found = measured[-1]
    for system in ("trl", "ftlab"):
        counted = cell_of(found, system, "A")["tokens_per_step"]
        wanted = {"positions": BATCH * LENGTH, "tokens": BATCH * LENGTH}
        assert counted == wanted | {"trained": BATCH * (LENGTH - 1)}
    trl, ours = (cell_of(found, system, "A")["first_loss"] for system in ("trl", "ftlab"))
    assert trl == pytest.approx(ours, abs=1e-4)
    assert not gpu_figures.unequal_losses(found["cells"])


def test_rows_of_real_lengths_are_counted_as_ftlab_packs_them(measured):
    """Best fit first into windows, which come in their order."""
    from datasets import Dataset
    from trl import pack_dataset

    rows, found = gpu_rows.rows("B", "smoke", LENGTH), cell_of(measured[-1], "ftlab", "B")
    columns = {"input_ids": [row.ids for row in rows], "labels": [row.labels for row in rows]}
    packed = pack_dataset(Dataset.from_dict(columns), LENGTH, "bfd")
    start = BATCH * found["warm_up_steps"]
    timed = packed.select(range(start, start + BATCH * STEPS))
    sizes = [len(ids) for ids in timed["input_ids"]]
    widest = [max(sizes[at : at + BATCH]) for at in range(0, len(sizes), BATCH)]
    trained = sum(label != -100 for labels in timed["labels"] for label in labels)
    counted = {key: value * STEPS for key, value in found["tokens_per_step"].items()}
    wanted = {"positions": BATCH * sum(widest), "tokens": sum(sizes), "trained": trained}
    assert counted == pytest.approx(wanted) and sum(sizes) > 0.95 * BATCH * LENGTH * STEPS


def test_the_same_command_measures_no_cell_again(measured):
    folder, _, found = measured
    said, again = bench(folder, *FULL)
    assert " took " not in said and again["cells"] == found["cells"]


def test_a_cell_that_fails_is_recorded_and_others_go_on(measured, monkeypatch):
    folder = measured[0]
    (folder / "models" / "smoke-broken").mkdir(exist_ok=True)
    cell = {
        "model": "smoke", "method": "lora", "batch": 1, "track": "A", "checkpointing": "off",
        "system": "trl", "folder": str(folder / "models" / "smoke-broken"), "device": "cpu",
        "length": 32, "steps": 1, "warm": 1,
    }  # fmt: skip
    record = gpu_cell.main(json.dumps(cell))
    assert record["status"] == "failed" and "smoke-broken" in record["reason"]

    def full(cell):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.\nmore")

    monkeypatch.setattr(gpu_cell, "measure", full)
    record = gpu_cell.main(json.dumps(cell))
    assert record["status"] == "out of memory" and record["reason"].endswith("9 GiB.")


def test_a_missing_package_or_key_is_named(monkeypatch):
    cell = {"system": "trl-liger", "method": "lora", "device": "cuda", "model": "smoke"}
    monkeypatch.setattr(gpu_cell.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(gpu_cell.Missing, match="liger_kernel is not installed"):
        gpu_cell.check(cell)
    monkeypatch.undo()
    from ftlab.recipe import KNOBS

    asked = cell | {"system": "ftlab-unsloth", "track": "A", "folder": "x", "length": 8,
                    "batch": 1, "checkpointing": "on"}  # fmt: skip
    if "use_unsloth" in KNOBS:
        recipe = gpu_cell.recipe_of(asked, 3)
        assert recipe.use_unsloth and recipe.use_unsloth_gc and not recipe.gradient_checkpointing
    else:
        with pytest.raises(gpu_cell.Missing, match="no key use_unsloth"):
            gpu_cell.recipe_of(asked, 3)
    assert gpu_cell.recipe_of(asked | {"system": "ftlab"}, 3).gradient_checkpointing


# --- models and rows -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "total", "lora"),
    [
        ("Qwen3-0.6B", 596.0e6, 10.09e6), ("Qwen3-1.7B", 1720.6e6, 17.43e6),
        ("Qwen3-8B", 8190.7e6, 43.65e6), ("Llama-3.1-8B", 8030.3e6, 41.94e6),
    ],
)  # fmt: skip
def test_shapes_have_the_published_numbers_of_parameters(name, total, lora):
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(gpu_models.config(name, "bfloat16"))
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(total, rel=1e-4)
    assert gpu_models.shape(name).adapters(16) == pytest.approx(lora, rel=1e-3)


def test_weights_come_in_shards_from_a_seed_and_load(tmp_path, monkeypatch):
    from transformers import AutoModelForCausalLM

    monkeypatch.setattr(gpu_models, "SHARD", 100e3)
    for folder in ("a", "b"):
        gpu_models.write("smoke", tmp_path / folder, "cpu")
    first, second = (sorted((tmp_path / folder).glob("*.safetensors")) for folder in "ab")
    assert len(first) > 1
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]
    model, report = AutoModelForCausalLM.from_pretrained(tmp_path / "a", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert model.model.embed_tokens.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert torch.equal(model.model.norm.weight, torch.ones(64))
    kept = (tmp_path / "a" / "config.json").stat().st_mtime
    gpu_models.write("smoke", tmp_path / "a", "cpu")  # is there: not written again
    assert (tmp_path / "a" / "config.json").stat().st_mtime == kept


@pytest.mark.parametrize("track", ["A", "B"])
def test_ids_for_trl_are_what_ftlab_reads_from_the_words(track):
    import ftlab

    tokenizer = gpu_models.tokenizer(512)
    for row in gpu_rows.rows(track, "smoke", 96)[:40]:
        encoded = ftlab.encode(tokenizer, row.source)
        assert encoded.input_ids == row.ids and encoded.labels == row.labels
        assert len(row.ids) == 96 if track == "A" else len(row.ids) <= 96


def test_rows_span_the_vocabulary_and_are_always_the_same():
    rows = gpu_rows.rows("A", "Qwen3-0.6B", 2048)
    ids = {i for row in rows for i in row.ids}
    assert max(ids) == 151935 and len(ids) > 120_000  # 262,144 draws of 151,932 words
    assert gpu_rows.rows("A", "Qwen3-0.6B", 2048) == rows


def test_lengths_are_spread_as_in_instruction_data():
    pairs = gpu_rows.lengths(4096, 2048)
    assert pairs == gpu_rows.lengths(4096, 2048)
    prompts, answers = (sorted(side) for side in zip(*pairs, strict=True))
    assert prompts[2048] == pytest.approx(24, abs=2) and answers[2048] == pytest.approx(60, abs=4)
    assert answers[-41] > 400 and min(prompts[0], answers[0]) >= 1  # the longest 1 %
    assert all(a + b + 4 <= 64 for a, b in gpu_rows.lengths(4096, 64))


def test_span_is_the_mean_over_tokens():
    rows = [gpu_rows.Row([0] * n, [0] * n, {}) for n in (1, 3)]
    assert gpu_rows.span(rows) == (1 * 1 + 3 * 3) / 4


# --- arithmetic ----------------------------------------------------------------------------------


def test_nemos_published_rate_by_its_convention_and_by_ours():
    """12,473 tokens/s of Llama-3-8B, LoRA r=16, rows of 4,096: 402 TFLOP/s, 41 % of 989."""
    shape = gpu_models.shape("Llama-3.1-8B")
    theirs = gpu_figures.nemo_flops_per_token(shape, 16, 4096, 8_030_261_248) * 12_473 / 1e12
    assert theirs == pytest.approx(402, abs=1) and theirs / 989 == pytest.approx(0.41, abs=0.005)
    ours = gpu_figures.flops_per_token(shape, 16, 4096) * 12_473 / 1e12
    assert ours == pytest.approx(417.7, abs=0.5)  # 4N + 6P + 3A = 30.02 + 0.25 + 3.22 GFLOP


@pytest.mark.parametrize(
    ("name", "ceiling"),
    [("Qwen3-0.6B", 251e3), ("Qwen3-1.7B", 103e3), ("Llama-3.1-8B", 24.8e3), ("Qwen3-8B", 24.4e3)],
)
def test_flops_give_the_ceilings_of_the_reference(name, ceiling):
    """Tokens/s of LoRA at 790 TFLOP/s and rows of 2,048."""
    flops = gpu_figures.flops_per_token(gpu_models.shape(name), 16, 2048)
    assert 790e12 / flops == pytest.approx(ceiling, rel=0.01)


def test_peaks_are_found_by_name():
    assert gpu_figures.published_peak("NVIDIA H200") == 989
    assert gpu_figures.published_peak("NVIDIA H100 PCIe") == 756
    assert gpu_figures.published_peak("NVIDIA H100 80GB HBM3") == 989
    assert gpu_figures.published_peak("Some Card") is None


def test_mfu_uses_the_length_of_samples_not_of_windows():
    cell = {"model": "smoke", "track": "A", "length": 512, "peak_tflops": 2.0}
    full = gpu_cell.utilization(cell, 1e6)
    packed = gpu_cell.utilization(cell | {"track": "B"}, 1e6)
    shape = gpu_models.shape("smoke")
    assert full["tflops"] == pytest.approx(gpu_figures.flops_per_token(shape, 16, 512) / 1e6)
    assert full["mfu"] == full["tflops"] / 2 and full["mfu_matmul"] is None
    assert packed["tflops"] < full["tflops"]


def test_warm_up_ends_when_five_steps_are_alike_or_enough_are_done():
    assert not gpu_clock.steady([9, 1, 1, 1, 1], 10)  # the first compiles: four are no five
    assert gpu_clock.steady([9, 1, 1.01, 1, 1.02, 1], 10)
    assert not gpu_clock.steady([9, 1, 1.01, 1, 1.05, 1], 10)
    assert gpu_clock.steady([1, 2, 3], 3)


def test_the_clock_times_what_follows_the_warm_up(monkeypatch):
    now = iter([0.0, 5, 5, 6, 6, 8, 8, 11, 11])
    clock = gpu_clock.Clock("cpu", steps=2, warm=2)
    monkeypatch.setattr(clock, "_now", lambda: next(now))
    clock.begin()
    assert [clock.tick() for _ in range(4)] == [False, False, False, True]
    figures = clock.figures()
    assert figures["step_ms"]["median"] == 2500 and figures["first_step_seconds"] == 5
    assert (figures["warm_up_steps"], figures["warm_up_seconds"], figures["steps"]) == (2, 6, 2)


def test_the_tally_counts_padded_packed_and_flat_batches():
    ids = torch.zeros(2, 4, dtype=torch.long)
    labels = torch.tensor([[5, 5, 5, 5], [-100, 5, -100, -100]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    tally = gpu_clock.Tally()
    for more in ({"attention_mask": mask}, {"tokens": torch.tensor([7])}, {},
                 {"packed_seq_lengths": torch.tensor([4, 1])}):  # fmt: skip
        tally.add({"input_ids": ids, "labels": labels, **more})
    assert [int(tokens) for _, tokens, _ in tally.batches] == [6, 7, 8, 5]
    assert {(positions, int(trained)) for positions, _, trained in tally.batches} == {(8, 4)}
    assert tally.per_step(1, 2) == {"positions": 8, "tokens": 7.5, "trained": 4}


def test_a_prediction_is_put_beside_what_was_measured():
    record = {"predicted": {"peak": 90, "seconds": 1.5}, "peak_allocated": 100,
              "step_ms": {"median": 2000.0}}  # fmt: skip
    assert gpu_cell.compared(record)["predicted"] == {
        "peak": 90, "seconds": 1.5, "peak_ratio": 0.9, "seconds_ratio": 0.75
    }  # fmt: skip
    on_cpu = {"predicted": {"error": "no"}, "peak_allocated": None, "step_ms": {"median": 1.0}}
    assert gpu_cell.compared(on_cpu)["predicted"] == {"error": "no"}


# --- goals ---------------------------------------------------------------------------------------


def record(system, tokens, memory=100, method="qlora", mfu=0.4, status="ok", **changes):
    return {
        "model": "Llama-3.1-8B", "method": method, "batch": 8, "track": "A", "checkpointing": "on",
        "system": system, "status": status, "tokens_per_second": {"tokens": tokens},
        "peak_allocated": memory, "mfu": mfu, "first_loss": 12.0, "reason": None, **changes,
    }  # fmt: skip


def judged(*cells):
    return [one["verdict"] for one in gpu_figures.verdicts({"cells": list(cells)})]


def test_goals_are_met_missed_or_not_measured():
    assert judged() == ["not measured"] * 4
    fast = [record("trl", 100, 100), record("ftlab-unsloth", 130, 60), record("unsloth", 134, 60)]
    assert judged(*fast, record("ftlab", 9, method="lora", mfu=0.45)) == ["met"] * 4
    slow = [record("trl", 100, 100), record("ftlab-unsloth", 129, 61), record("unsloth", 134, 60)]
    assert judged(*slow, record("ftlab", 9, method="lora", mfu=0.449)) == ["missed"] * 4


def test_a_goal_counts_like_cells_only():
    other = record("ftlab-unsloth", 500, 10, batch=1)
    failed = record("ftlab-unsloth", 500, 10, status="out of memory")
    elsewhere = record("trl", 9, method="lora", mfu=0.9)  # not ftlab's
    assert judged(record("trl", 100), other, failed, elsewhere) == ["not measured"] * 4


def test_first_losses_that_differ_are_told():
    same = [record("trl", 1), record("ftlab", 1, first_loss=12.009)]
    assert not gpu_figures.unequal_losses(same)
    cheat = record("unsloth", 1, first_loss=11.9)
    packed = [record("trl", 1, track="B"), record("ftlab", 1, track="B", first_loss=9)]
    assert len(gpu_figures.unequal_losses([*same, *packed, cheat])) == 1


# --- the command ---------------------------------------------------------------------------------


def test_the_goals_are_measured_first_and_systems_take_turns():
    cells = gpu.cells(gpu.options([]))
    size = len(gpu.SYSTEMS)
    groups = [cells[at : at + size] for at in range(0, len(cells), size)]
    assert [cells[0].group for cells in groups[:6]] == list(gpu.FIRST)
    assert len({cell.group for cell in groups[0]}) == 1
    assert {group[0].system for group in groups} == set(gpu.SYSTEMS)
    assert len(cells) == len(set(cells)) == 4 * 2 * 2 * 2 * 2 * size
    packed = gpu.cells(gpu.options(["--systems", "trl-packed", "trl"]))
    assert {cell.track for cell in packed if cell.system == "trl-packed"} == {"B"}


def test_no_cell_is_begun_that_the_time_left_would_not_hold():
    asked = gpu.options(["--models", "smoke", "Qwen3-0.6B", "--systems", "trl", "--tracks", "A"])
    made = {"code": "x", "versions": {}, "length": 1, "steps": 1, "ce_gb": "1"}
    long = {"model": "Qwen3-0.6B", "seconds": 500.0}
    found = {"cells": []}
    for model in ("smoke", "Qwen3-0.6B"):
        rest = dict.fromkeys(gpu.Cell.__dataclass_fields__)
        found["cells"].append({**rest, **made, "model": model, "code": "older", "seconds": 1.0})
    ends = time.monotonic() + 100
    models = {cell.model for cell, _ in gpu._in_time(asked, found, made, ends)}
    assert models == {"smoke", "Qwen3-0.6B"}
    found["cells"][1] |= long
    models = {cell.model for cell, _ in gpu._in_time(asked, found, made, ends)}
    assert models == {"smoke"}
    assert not list(gpu._in_time(asked, found, made, time.monotonic() - 1))


def test_a_cell_of_older_code_is_measured_again():
    cell = gpu.cells(gpu.options([]))[0]
    made = {"code": "x", "versions": {"torch": "1"}, "length": 1, "steps": 1, "ce_gb": "1"}
    found = {"cells": []}
    gpu.keep(found, vars(cell) | made | {"code": "older"})
    assert gpu.done(found, made) == set()
    gpu.keep(found, vars(cell) | made)
    assert len(found["cells"]) == 1 and gpu.done(found, made) == {cell}


def test_without_a_gpu_one_sentence_says_so(tmp_path):
    command = [sys.executable, "-m", "benchmarks.gpu", "--cache", str(tmp_path)]
    hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=hidden)
    assert done.returncode == 1 and not done.stdout
    assert done.stderr.startswith("PyTorch sees no NVIDIA GPU here") and "\n" not in (
        done.stderr.strip()
    )


def test_no_network_and_no_gpu_reach_a_cell_that_asked_for_none():
    found = gpu.environment(gpu.options(["--device", "cpu", "--ce-gb", "2"]))
    assert found["CUDA_VISIBLE_DEVICES"] == "" and found["HF_HUB_OFFLINE"] == "1"
    assert found["UNSLOTH_CE_LOSS_TARGET_GB"] == "2" and found["PATH"] == os.environ["PATH"]


# --- what readers see ----------------------------------------------------------------------------


def test_the_readme_shows_the_results_or_says_that_there_are_none():
    assert gpu_figures.block() in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_block_says_what_is_missing_and_shows_what_is_there(tmp_path):
    assert "No GPU has been measured yet" in gpu_figures.block(tmp_path)
    cells = [record("trl", 1000, 40 * 2**30), record("ftlab-unsloth", 1500, 20 * 2**30),
             record("unsloth", 0, status="out of memory", tokens_per_second=None)]  # fmt: skip
    device = {"name": "NVIDIA H200", "peak_tflops": 989.0}
    found = {"cells": cells, "device": device, "length": 2048}
    (tmp_path / "gpu-h200.json").write_text(json.dumps(found))
    shown = gpu_figures.block(tmp_path)
    assert "| ftlab-unsloth | 1,500 | 1.50 | 20.0 | 0.50 | 40% |" in shown
    assert "out of memory" in shown and "NVIDIA H200" in shown and "No GPU" not in shown
    assert "tokens/s | 1.50 | >= 1.3 | met |" in shown
