"""Run folders of the preference stages: one clean adapter, loadable rewards, exact resuming."""

import json
import threading

import pytest
import torch

import ftlab
from ftlab.alignment.rewards import rewards
from ftlab.base import weights_hash

BRIEF = {"per_device_train_batch_size": 4, "learning_rate": 1e-3, "max_steps": 2, "lora_rank": 4}


@pytest.fixture(scope="module")
def pairs():
    return ftlab.read("polite_pairs").take(8)


def run_of(rows, tiny, folder, **changes):
    recipe = ftlab.Recipe(**{**BRIEF, "output_dir": str(folder), **changes})
    return ftlab.train(recipe, rows, model=tiny[0], tokenizer=tiny[1], quiet=True)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_reward_model_loads_again_with_its_scores(method, pairs, tiny, tmp_path):
    run = run_of(pairs, tiny, tmp_path / "rm", stage="rm", finetuning_type=method)
    source = {"name": "tiny", "adapter": run.folder} if method == "lora" else {"name": run.folder}
    model, tokenizer = ftlab.load(**source)
    examples = [ftlab.encode(tokenizer, row).chosen for row in pairs]
    found = rewards(model, examples, pad_id=tokenizer.pad_token_id)
    expected = rewards(run.model, examples, pad_id=tokenizer.pad_token_id)
    assert found == pytest.approx(expected, abs=1e-5) and len(set(found)) > 1
    one = rewards(model, examples[:1])
    assert one[0] == pytest.approx(found[0], abs=1e-4)  # padding changes nothing


def test_the_head_of_a_reward_model_is_trained_and_saved(pairs, tiny, tmp_path):
    from safetensors.torch import load_file

    run = run_of(pairs, tiny, tmp_path / "rm", stage="rm")
    saved = load_file(run.folder / "adapter_model.safetensors")
    [head] = [tensor for name, tensor in saved.items() if "score" in name]
    wrapper = run.model.base_model.model.score
    assert not torch.equal(head, wrapper.original_module.weight)
    assert torch.equal(head, wrapper.modules_to_save["default"].weight)
    record = json.loads((run.folder / "base.json").read_text())
    assert record["sha256"] == weights_hash(tiny[0], tiny[0].dtype)
    with pytest.raises(ftlab.ModelError, match="has a head. Load it along"):
        ftlab.merge(run.folder, tmp_path / "merged")


def test_the_folder_holds_one_adapter_and_the_next_run_starts_from_it(pairs, tiny, tmp_path):
    first = run_of(pairs, tiny, tmp_path / "first", stage="dpo", save_steps=1)
    for folder in (first.folder, first.folder / "checkpoint-1"):
        assert len(list(folder.rglob("adapter_model.safetensors"))) == (
            3 if folder == first.folder else 1
        )
        assert not (folder / "ref").exists()
    assert list(first.model.peft_config) == ["default"]
    model, tokenizer = ftlab.load("tiny", adapter=first.folder)
    recipe = ftlab.Recipe(**{**BRIEF, "stage": "dpo"})
    second = ftlab.train(recipe, pairs, model=model, tokenizer=tokenizer, save=False, quiet=True)
    # The reference is the model as it was given: base and first adapter.
    assert second.history[0]["loss"] == pytest.approx(0.693147, abs=1e-5)
    asked = recipe.replace(precompute_ref_log_probs=True)
    third = ftlab.train(asked, pairs, model=model, tokenizer=tokenizer, save=False, quiet=True)
    assert third.history[1]["loss"] == pytest.approx(second.history[1]["loss"], abs=1e-5)
    other = recipe.replace(ref_model="tiny")
    fourth = ftlab.train(other, pairs, model=model, tokenizer=tokenizer, save=False, quiet=True)
    assert fourth.history[0]["loss"] != pytest.approx(0.693147, abs=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {"stage": "dpo"},
        {"stage": "dpo", "finetuning_type": "full"},
        {"stage": "dpo", "pref_loss": "orpo"},
        {"stage": "kto", "precompute_ref_log_probs": True},
        {"stage": "rm"},
    ],
    ids=str,
)
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(changes, pairs, tiny, tmp_path):
    name = "polite_labels" if changes["stage"] == "kto" else "polite_pairs"
    changes = {**changes, "dataset": name, "max_samples": 8, "save_steps": 1, "max_steps": 3}
    whole = run_of(None, tiny, tmp_path / "whole", **changes)
    recipe = ftlab.Recipe(**{**BRIEF, **changes, "output_dir": str(tmp_path / "cut")})
    with pytest.raises(RuntimeError, match="power"):
        ftlab.train(recipe, observers=[_Cut(2)], quiet=True)
    resumed = ftlab.resume(tmp_path / "cut")
    assert resumed.status == "finished"
    for a, b in zip(whole.history, resumed.history, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-6)
    ours, theirs = whole.model.state_dict(), resumed.model.state_dict()
    assert all(torch.allclose(tensor, theirs[name], atol=1e-6) for name, tensor in ours.items())


class _Cut:
    """The power fails at a step."""

    def __init__(self, step):
        self.step = step

    def on_start(self, run):
        pass

    def on_log(self, run, record):
        if record["step"] == self.step:
            raise RuntimeError("power")

    def on_end(self, run):
        pass


def test_guards_hold_in_every_stage(pairs, tiny, monkeypatch):
    from ftlab.alignment.preference import OddsTrainer, PairTrainer, ScoreTrainer

    cases = (("dpo", "sigmoid", PairTrainer), ("dpo", "orpo", OddsTrainer),
             ("rm", "sigmoid", ScoreTrainer))  # fmt: skip
    for stage, loss, trainer in cases:
        plain = trainer.compute_loss

        def broken(self, *args, plain=plain, **kwargs):
            return plain(self, *args, **kwargs) * (float("nan") if self.state.global_step else 1)

        with monkeypatch.context() as patched:
            patched.setattr(trainer, "compute_loss", broken)
            recipe = ftlab.Recipe(**BRIEF, stage=stage, pref_loss=loss)
            run = ftlab.train(
                recipe, pairs, model=tiny[0], tokenizer=tiny[1], save=False, quiet=True
            )
        assert run.status == "not finite" and len(run.history) == 1


def test_the_stop_event_ends_a_preference_run(pairs, tiny):
    stop = threading.Event()
    stop.set()
    recipe = ftlab.Recipe(**{**BRIEF, "max_steps": 50}, stage="dpo")
    run = ftlab.train(
        recipe, pairs, model=tiny[0], tokenizer=tiny[1], save=False, quiet=True, stop=stop
    )
    assert run.status == "stopped" and len(run.history) == 1


def test_a_reward_model_says_that_it_does_not_chat(pairs, tiny):
    recipe = ftlab.Recipe(**BRIEF, stage="rm")
    run = ftlab.train(recipe, pairs, model=tiny[0], tokenizer=tiny[1], save=False, quiet=True)
    with pytest.raises(ftlab.ModelError, match="gives scores, no answers"):
        run.chat("Hello?")
