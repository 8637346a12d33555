"""Every optimizer that a key can choose learns here, and its state goes on from a checkpoint."""

import importlib.util
import io

import pytest
import torch

import ftlab
from ftlab import optimizers
from ftlab.adapters import adapt

OPTIMIZERS = {
    "8 bits": {"optim": "adamw_8bit"},
    "paged": {"optim": "paged_adamw_8bit"},
    "lion": {"optim": "lion_8bit", "learning_rate": 3e-4},
    "LoRA+": {"loraplus_lr_ratio": 8, "finetuning_type": "lora", "learning_rate": 5e-3},
    "GaLore": {"use_galore": True, "galore_update_interval": 2},
    "GaLore, layer by layer": {"use_galore": True, "galore_layerwise": True},
    "APOLLO": {"use_apollo": True, "apollo_update_interval": 2},
    "BAdam": {"use_badam": True, "badam_switch_interval": 2},
    "BAdam, shares": {"use_badam": True, "badam_mode": "ratio", "badam_update_ratio": 0.5},
    "Adam-mini": {"use_adam_mini": True},
    "Muon": {"use_muon": True, "finetuning_type": "freeze", "freeze_trainable_layers": 1},
}
NO_RESUME = ("GaLore, layer by layer", "BAdam", "BAdam, shares")
BRIEF = {
    "finetuning_type": "full", "learning_rate": 1e-3, "dataset": "world_qa", "max_samples": 16,
    "per_device_train_batch_size": 4, "max_steps": 4, "save_steps": 2,
}  # fmt: skip


def brief(**changes):
    return ftlab.Recipe(**{**BRIEF, **changes})


class Power:
    """What a power cut after step 3 leaves."""

    def on_start(self, run): ...

    def on_end(self, run): ...

    def on_log(self, run, record):
        if record["step"] == 3:
            raise SystemExit


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_learns_and_resumes(name, tiny, tmp_path, capsys):
    if name == "APOLLO" and importlib.util.find_spec("apollo_torch") is None:
        pytest.skip("apollo-torch is not installed: its licence forbids commercial use")
    recipe = brief(**OPTIMIZERS[name])
    given = {"model": tiny[0], "tokenizer": tiny[1], "quiet": True}
    run = ftlab.train(recipe, **given, save=False)
    losses = [record["loss"] for record in run.history]
    assert losses[-1] < losses[0] - 0.1
    assert not capsys.readouterr().out
    cut = recipe.replace(output_dir=str(tmp_path / "run"))
    with pytest.raises(SystemExit):
        ftlab.train(cut, **given, observers=[Power()])
    if name in NO_RESUME:
        with pytest.raises(ftlab.CheckpointError, match="keeps its place in no checkpoint"):
            ftlab.resume(cut.output_dir)
    else:
        again = [record["loss"] for record in ftlab.resume(cut.output_dir).history]
        assert again == losses


def test_muon_takes_the_matrices_inside_and_adamw_the_rest(tiny):
    recipe = brief(use_muon=True)
    model = adapt(tiny[0], recipe)
    made = optimizers.build(model, recipe, None)
    muon, adamw = made.parts
    assert isinstance(muon, torch.optim.Muon) and isinstance(adamw, torch.optim.AdamW)
    assert sum(p.numel() for g in muon.param_groups for p in g["params"]) == 786432
    names = {id(p): name for name, p in model.named_parameters()}
    rest = {names[id(p)] for group in adamw.param_groups for p in group["params"]}
    assert all("norm" in name or "embed" in name for name in rest) and len(rest) > 4
    for group in made.param_groups:
        group["lr"] = 0.5
    assert muon.param_groups[0]["lr"] == adamw.param_groups[0]["lr"] == 0.5


def test_muons_state_is_that_of_both(tiny):
    recipe = brief(use_muon=True, finetuning_type="freeze", freeze_trainable_layers=1)
    model = adapt(tiny[0], recipe)
    made, again = (optimizers.build(model, recipe, None) for _ in range(2))
    model(torch.arange(8)[None]).logits.sum().backward()
    made.step()
    file = io.BytesIO()
    torch.save(made.state_dict(), file)
    file.seek(0)
    again.load_state_dict(torch.load(file, weights_only=True))
    for part, other in zip(made.parts, again.parts, strict=True):
        state, loaded = part.state_dict()["state"], other.state_dict()["state"]
        assert state and all(
            torch.equal(value, loaded[key][name])
            for key, values in state.items()
            for name, value in values.items()
        )
    assert again.param_groups[0] is again.parts[0].param_groups[0]


def test_lora_plus_gives_b_its_own_rate(tiny):
    recipe = brief(loraplus_lr_ratio=4, finetuning_type="lora", learning_rate=1e-3)
    model = adapt(tiny[0], recipe)
    from ftlab.arguments import training_arguments

    made = optimizers.build(model, recipe, training_arguments(recipe))
    names = {id(p): name for name, p in model.named_parameters()}
    rates = {names[id(p)]: group["lr"] for group in made.param_groups for p in group["params"]}
    assert {rate for name, rate in rates.items() if ".lora_B." in name} == {4e-3}
    assert {rate for name, rate in rates.items() if ".lora_A." in name} == {1e-3}


def test_a_missing_package_is_named_before_anything_is_loaded(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for key, package in (("use_galore", "galore-torch"), ("use_apollo", "apollo-torch.*CC BY-NC")):
        with pytest.raises(ftlab.EnvironmentProblem, match=f"pip install {package}"):
            ftlab.train(brief(**{key: True}, model_name_or_path="nowhere"), save=False)
    with pytest.raises(ftlab.EnvironmentProblem, match="adamw_8bit.*pip install bitsandbytes"):
        ftlab.train(brief(optim="adamw_8bit", model_name_or_path="nowhere"), save=False)


def test_neftune_adds_noise_in_training_only(tiny):
    seen = {}
    for alpha in (None, 50.0):
        recipe = brief(neftune_noise_alpha=alpha, learning_rate=0.0, max_steps=1, val_size=4,
                       eval_strategy="steps", eval_steps=1, save_strategy="no",
                       finetuning_type="lora")  # fmt: skip
        run = ftlab.train(recipe, model=tiny[0], tokenizer=tiny[1], save=False, quiet=True)
        ids = torch.arange(9)[None]
        run.model.train()
        with torch.no_grad():
            seen[alpha] = run.history[0]["loss"], run.history[0]["eval_loss"], run.model(ids).logits
    assert abs(seen[None][0] - seen[50.0][0]) > 1e-2
    assert seen[None][1] == seen[50.0][1]
    assert torch.equal(seen[None][2], seen[50.0][2])  # nothing stays behind
