"""Training: the ids of ftlab.encode reach the model, guards stop bad runs, folders are whole."""

import json
import os
import signal
import threading

import pytest
import torch

import ftlab
from ftlab import batches, checkpoints
from ftlab.adapters import adapt, trainable_parameters
from ftlab.chat import IGNORED
from ftlab.train import CourseTrainer

BRIEF = {"per_device_train_batch_size": 4, "learning_rate": 2e-3, "max_steps": 3}


@pytest.fixture(scope="module")
def rows():
    return ftlab.read("world_qa").take(16)


def brief(**changes):
    return ftlab.Recipe(**{**BRIEF, **changes})


def train(recipe, rows, tiny, **options):
    model, tokenizer = tiny
    options = {"save": False, "quiet": True, **options}
    return ftlab.train(recipe, rows, model=model, tokenizer=tokenizer, **options)


class Watch:
    """An observer that runs ``action`` at each logged step."""

    def __init__(self, action=lambda run, record: None):
        self.action, self.calls = action, []

    def on_start(self, run):
        self.calls.append("start")

    def on_log(self, run, record):
        self.calls.append(int(record["step"]))
        self.action(run, record)

    def on_end(self, run):
        self.calls.append("end")


def test_the_batch_that_reaches_the_model_is_what_encode_shows(rows, tiny, monkeypatch):
    seen = []
    plain = CourseTrainer.compute_loss

    def spy(self, model, inputs, *args, **kwargs):
        seen.append({key: value.clone() for key, value in inputs.items()})
        return plain(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(CourseTrainer, "compute_loss", spy)
    train(brief(max_steps=4), rows, tiny)
    expected = {tuple(e.input_ids): e.labels for e in (ftlab.encode(tiny[1], row) for row in rows)}
    batches = [row for batch in seen for row in zip(*batch.values(), strict=True)]
    assert list(seen[0]) == ["input_ids", "labels", "attention_mask"]
    for ids, labels, mask in batches:
        length = int(mask.sum())
        assert labels[:length].tolist() == expected.pop(tuple(ids[:length].tolist()))
        assert (labels[length:] == IGNORED).all()
    assert not expected  # 4 steps of 4 rows saw each of the 16 rows once


@pytest.mark.parametrize("method", ["full", "freeze", "lora"])
def test_each_method_learns_and_leaves_the_given_model_alone(method, rows, tiny):
    before = {name: tensor.clone() for name, tensor in tiny[0].state_dict().items()}
    assert all(p.requires_grad for p in tiny[0].parameters())
    run = train(brief(finetuning_type=method, max_steps=6), rows, tiny)
    assert run.status == "finished" and run.history[-1]["loss"] < run.history[0]["loss"]
    assert all(p.requires_grad for p in tiny[0].parameters())
    after = tiny[0].state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_plain_text_trains_too(tiny):
    run = train(brief(stage="pt", cutoff_len=32), ftlab.read("world_text").take(50), tiny)
    assert [record["tokens"] for record in run.history] == [128, 256, 384]


def test_one_batch_of_eight_equals_eight_batches_of_one(rows, tiny):
    whole = train(brief(per_device_train_batch_size=8), rows, tiny)
    parts = train(brief(per_device_train_batch_size=1, gradient_accumulation_steps=8), rows, tiny)
    for a, b in zip(whole.history, parts.history, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-4)


def test_the_same_recipe_gives_the_same_losses(rows, tiny):
    first, second = (train(brief(), rows, tiny).history for _ in range(2))
    assert [r["loss"] for r in first] == [r["loss"] for r in second]


def test_freeze_trains_the_layers_it_names(tiny):
    model = adapt(tiny[0], brief(finetuning_type="freeze", freeze_trainable_layers=1))
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    last = f"model.layers.{model.config.num_hidden_layers - 1}."
    assert trained and all(name.startswith(last) for name in trained)
    first = adapt(tiny[0], brief(finetuning_type="freeze", freeze_trainable_layers=-1))
    assert first.model.layers[0].mlp.up_proj.weight.requires_grad
    assert trainable_parameters(first)[0] == trainable_parameters(model)[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lora_target": "q_proj,nonsense"}, "no module 'nonsense' there.*q_proj"),
        ({"additional_target": "lm_haed"}, "no module 'lm_haed'"),
        ({"finetuning_type": "freeze", "freeze_trainable_layers": 99}, "the model has"),
        (
            {"finetuning_type": "freeze", "freeze_extra_modules": "nonsense"},
            "no module 'nonsense'",
        ),
    ],
)
def test_a_module_that_does_not_exist_is_named(changes, message, rows, tiny):
    with pytest.raises(ftlab.RecipeError, match=message):
        train(brief(**changes), rows, tiny)


def test_observers_see_every_step(rows, tiny):
    watch = Watch()
    train(brief(), rows, tiny, observers=[watch])
    assert watch.calls == ["start", 1, 2, 3, "end"]


def test_stop_ends_after_the_current_step(rows, tiny):
    stop = threading.Event()
    watch = Watch(lambda run, record: stop.set() if record["step"] == 2 else None)
    run = train(brief(max_steps=50), rows, tiny, observers=[watch], stop=stop)
    assert run.status == "stopped" and len(run.history) <= 3


def interrupt(run, record):
    """Ctrl-C in the third step."""
    if record["step"] == 2:
        os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_finishes_the_step_and_saves(rows, tiny, tmp_path):
    recipe = brief(max_steps=50, output_dir=str(tmp_path / "run"))
    run = train(recipe, rows, tiny, observers=[Watch(interrupt)], save=True)
    assert run.status == "interrupted" and len(run.history) <= 3
    checkpoints.verify(run.folder)
    assert (run.folder / "adapter_model.safetensors").is_file()


def test_a_run_goes_on_after_ctrl_c_as_if_there_had_been_none(tiny, tmp_path):
    recipe = brief(dataset="world_qa", max_samples=16, max_steps=6)
    straight = ftlab.train(recipe, save=False, quiet=True)
    cut = recipe.replace(output_dir=str(tmp_path / "run"))
    assert ftlab.train(cut, observers=[Watch(interrupt)], quiet=True).status == "interrupted"
    run = ftlab.resume(tmp_path / "run")
    assert run.status == "finished"
    for key in ("step", "loss", "tokens"):
        assert [r[key] for r in run.history] == [r[key] for r in straight.history], key
    seconds = [record["seconds"] for record in run.history]
    assert seconds == sorted(seconds) and run.summary["seconds"] == seconds[-1]
    checkpoints.verify(run.folder)
    with pytest.raises(ftlab.CheckpointError, match="this run is finished"):
        ftlab.resume(run.folder)


def test_a_stopped_run_without_checkpoints_writes_none(rows, tiny, tmp_path):
    stop = threading.Event()
    stop.set()
    recipe = brief(output_dir=str(tmp_path / "run"), save_strategy="no")
    run = train(recipe, rows, tiny, stop=stop, save=True)
    assert run.status == "stopped" and not list(run.folder.glob("checkpoint-*"))
    with pytest.raises(ftlab.CheckpointError, match="no checkpoint to resume from"):
        ftlab.resume(run.folder)


def test_a_loss_that_is_not_finite_stops_within_the_step(rows, tiny, monkeypatch, capsys):
    plain = CourseTrainer.compute_loss

    def broken(self, model, inputs, *args, **kwargs):
        loss = plain(self, model, inputs, *args, **kwargs)
        return loss * float("nan") if self.state.global_step == 2 else loss

    monkeypatch.setattr(CourseTrainer, "compute_loss", broken)
    run = train(brief(max_steps=9), rows, tiny, quiet=False)
    assert run.status == "not finite" and len(run.history) == 2
    assert "Stopped at step 3" in capsys.readouterr().err
    assert all(p.isfinite().all() for p in run.model.parameters())


def test_a_gradient_that_is_not_finite_stops_before_the_weights_change(rows, tiny, monkeypatch):
    plain = CourseTrainer._clip_grad_norm
    monkeypatch.setattr(
        CourseTrainer,
        "_clip_grad_norm",
        lambda self, model: plain(self, model) * float("inf" if self.state.global_step == 1 else 1),
    )
    run = train(brief(max_steps=9), rows, tiny)
    assert run.status == "not finite" and len(run.history) == 1


def test_a_run_folder_holds_everything_and_proves_it(rows, tiny, tmp_path):
    recipe = brief(output_dir=str(tmp_path / "run"), save_steps=1, save_total_limit=2)
    run = train(recipe, rows, tiny, save=True)
    names = {path.name for path in run.folder.iterdir()}
    assert {"recipe.yaml", "history.jsonl", "data.json", "README.md", "manifest.json",
            "adapter_model.safetensors", "checkpoint-2", "checkpoint-3"} <= names  # fmt: skip
    assert "checkpoint-1" not in names and not [n for n in names if "partial" in n or ".lock" in n]
    checkpoints.verify(run.folder)
    lines = (run.folder / "history.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]
    again = ftlab.load("tiny", adapter=run.folder)[0]
    ids = torch.tensor([ftlab.encode(tiny[1], rows[0]).input_ids])
    with torch.no_grad():
        assert torch.allclose(again(ids).logits, run.model(ids).logits, atol=1e-5)


def test_a_flipped_bit_is_found(rows, tiny, tmp_path):
    run = train(brief(output_dir=str(tmp_path / "run")), rows, tiny, save=True)
    weights = run.folder / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ftlab.CheckpointError, match="damaged"):
        checkpoints.verify(run.folder)


def test_an_output_folder_in_use_is_refused_and_kept(rows, tiny, tmp_path):
    recipe = brief(output_dir=str(tmp_path / "run"))
    train(recipe, rows, tiny, save=True)
    before = checkpoints.sha256(tmp_path / "run" / "manifest.json")
    with pytest.raises(ftlab.CheckpointError, match="in use by an earlier run"):
        train(recipe, rows, tiny, save=True)
    assert checkpoints.sha256(tmp_path / "run" / "manifest.json") == before
    train(recipe.replace(overwrite_output_dir=True), rows, tiny, save=True)
    aside = [path for path in tmp_path.iterdir() if "replaced" in path.name]
    assert checkpoints.sha256(aside[0] / "manifest.json") == before


def test_two_processes_do_not_write_one_folder(tmp_path):
    folder = checkpoints.new_run_folder(str(tmp_path / "run"), "x", overwrite=False)
    with pytest.raises(ftlab.CheckpointError, match="is writing here"):
        checkpoints.new_run_folder(str(folder), "x", overwrite=True)
    (folder / "run.lock").write_text(json.dumps({"pid": 2**22 + 1, "host": os.uname().nodename}))
    checkpoints.new_run_folder(str(folder), "x", overwrite=True)  # its process is gone


def test_a_full_disk_is_told_before_training(rows, tiny, tmp_path, monkeypatch):
    full = checkpoints.shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(checkpoints.shutil, "disk_usage", lambda path: full)
    with pytest.raises(ftlab.EnvironmentProblem, match="MB of disk are free"):
        train(brief(output_dir=str(tmp_path / "run")), rows, tiny, save=True)
    assert not list(tmp_path.iterdir())


def test_a_disk_that_fills_in_the_middle_of_a_checkpoint_leaves_the_earlier_one(
    rows, tiny, tmp_path, monkeypatch
):
    plain = CourseTrainer._save_rng_state

    def full(self, folder):
        if self.state.global_step == 2:
            raise OSError(28, "No space left on device")
        plain(self, folder)

    monkeypatch.setattr(CourseTrainer, "_save_rng_state", full)
    with pytest.raises(ftlab.CheckpointError, match="the disk is full"):
        train(brief(output_dir=str(tmp_path / "run"), save_steps=1), rows, tiny, save=True)
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert left == {"recipe.yaml", "base.json", "run.json", "checkpoint-1"}
    checkpoints.verify(tmp_path / "run" / "checkpoint-1")


def test_a_disk_that_fills_while_saving_leaves_no_half(tmp_path):
    with (
        pytest.raises(ftlab.CheckpointError, match="the disk is full"),
        checkpoints.written_whole(tmp_path / "checkpoint-1"),
    ):
        raise OSError(28, "No space left on device")
    assert not list(tmp_path.iterdir())


def test_a_stopped_run_resumes_with_the_same_losses(tiny, tmp_path):
    recipe = brief(dataset="world_qa", max_samples=16, max_steps=6, save_steps=2)
    straight = ftlab.train(recipe, save=False, quiet=True)

    class Power:  # what a power cut leaves: checkpoints, but no finished folder
        def on_start(self, run): ...
        def on_end(self, run): ...
        def on_log(self, run, record):
            if record["step"] == 5:
                raise SystemExit

    cut = recipe.replace(output_dir=str(tmp_path / "run"))
    with pytest.raises(SystemExit):
        ftlab.train(cut, observers=[Power()], quiet=True)
    run = ftlab.resume(tmp_path / "run")
    assert run.status == "finished"
    assert [r["loss"] for r in run.history] == [r["loss"] for r in straight.history]
    assert run.tokenizer.chat_template == straight.tokenizer.chat_template
    with pytest.raises(ftlab.CheckpointError, match="finished, there is nothing to resume"):
        ftlab.resume(tmp_path / "run")


def test_a_damaged_checkpoint_is_skipped_and_named(tiny, tmp_path):
    for step in (2, 4):
        with checkpoints.written_whole(tmp_path / f"checkpoint-{step}") as folder:
            (folder / "weights").write_text(f"step {step}")
    (tmp_path / "checkpoint-4" / "weights").write_text("step 5")
    found, skipped = checkpoints.newest(tmp_path)
    assert found == tmp_path / "checkpoint-2" and "damaged" in skipped[0]


def test_an_edited_row_is_encoded_anew(rows, tiny):
    recipe = brief()
    first = batches.dataset(tiny[1], rows, recipe)[0]["input_ids"]
    changed = ftlab.Data([{"messages": [dict(m) for m in row["messages"]]} for row in rows])
    changed[0]["messages"][1]["content"] = "something else"
    second = batches.dataset(tiny[1], changed, recipe)[0]["input_ids"]
    assert first[1:] == second[1:] and first[0] != second[0]


def test_a_row_longer_than_cutoff_is_an_error_that_names_it(rows, tiny):
    with pytest.raises(ftlab.DataError, match=r"world_qa\.json:\d+: the example has \d+ tokens"):
        train(brief(cutoff_len=4), rows, tiny)


def test_text_and_conversations_need_their_own_stage(rows, tiny):
    with pytest.raises(ftlab.RecipeError, match="Use stage: sft"):
        train(brief(stage="pt"), rows, tiny)
    with pytest.raises(ftlab.RecipeError, match="Use stage: pt"):
        train(brief(stage="sft"), ftlab.read("world_text").take(4), tiny)


def test_a_template_with_a_default_system_prompt_adds_it(rows, tiny):
    plain = batches.dataset(tiny[1], rows, brief())[0]["input_ids"][0]
    recipe = brief(template="qwen")
    qwen = batches.dataset(batches.prepared_tokenizer(tiny[1], recipe), rows, recipe)[0]
    qwen = qwen["input_ids"][0]
    assert len(qwen) > len(plain)
    assert "created by Alibaba Cloud" in tiny[1].decode(qwen)


def test_precision_that_the_device_lacks_is_announced(rows, tiny, capsys):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    train(brief(bf16=True, max_steps=1), rows, tiny, quiet=False)
    assert "bfloat16 asked for, float32 used" in capsys.readouterr().err
