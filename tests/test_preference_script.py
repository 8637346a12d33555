"""A preference recipe copied as plain TRL Python trains the same thing, without ftlab."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import ftlab

BRIEF = {
    "stage": "dpo", "dataset": "polite_pairs", "max_samples": 8, "max_steps": 3,
    "per_device_train_batch_size": 4, "learning_rate": 1e-3, "save_strategy": "no",
}  # fmt: skip


@pytest.mark.parametrize("changes", [{}, {"stage": "rm", "finetuning_type": "full"}], ids=str)
def test_the_script_runs_without_ftlab_and_gives_the_same_losses(changes, tmp_path):
    recipe = ftlab.Recipe(**{**BRIEF, **changes}, output_dir=str(tmp_path / "out"))
    path = tmp_path / "train.py"
    path.write_text(
        "import sys\nsys.modules['ftlab'] = None  # importing it would fail\n"
        + recipe.to_python()
        + "print('LOSSES', [h['loss'] for h in trainer.state.log_history if 'loss' in h])\n"
    )
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("LOSSES"))
    losses = ast.literal_eval(line.removeprefix("LOSSES "))
    ours = [record["loss"] for record in ftlab.train(recipe, save=False, quiet=True).history]
    if recipe.stage == "rm":  # a fresh head is drawn otherwise
        assert len(losses) == 3 and losses[0] == pytest.approx(ours[0], abs=1.0)
    else:
        assert losses == pytest.approx(ours, abs=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {"pref_loss": "ipo", "val_size": 0.2, "eval_strategy": "epoch"},
        {"pref_loss": "robust", "dpo_label_smoothing": 0.1},
        {"stage": "rm"},
        {"stage": "rm", "finetuning_type": "freeze"},
        {"stage": "kto", "dataset": "polite_labels"},
    ],
    ids=str,
)
def test_every_kind_of_recipe_becomes_valid_python(changes):
    source = ftlab.Recipe(**{**BRIEF, **changes}).to_python()
    ast.parse(source)
    assert "import ftlab" not in source and "from ftlab" not in source
    assert ("SEQ_CLS" in source and "'score'" in source) == (changes == {"stage": "rm"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pref_loss": "simpo"}, "TRL's trainer masks rows otherwise"),
        ({"pref_ftx": 0.1}, "pref_ftx: a plain TRL script cannot"),
        ({"dpo_label_smoothing": 0.1}, "TRL's sigmoid loss has none"),
        ({"ref_model": "tiny"}, "ref_model: a plain TRL script cannot"),
        ({"stage": "ppo"}, "ppo samples answers"),
    ],
)
def test_what_plain_trl_computes_otherwise_is_refused(changes, message):
    with pytest.raises(ftlab.RecipeError, match=message):
        ftlab.Recipe(**{**BRIEF, **changes}).to_python()


def parts(source):
    """The functions and constants of a script, without running the rest."""
    kept = [
        node
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef)
        or (isinstance(node, ast.Assign) and node.targets[0].id in ("SYSTEM", "ROLES", "FILES"))
    ]
    space = {}
    exec(compile(ast.Module(kept, []), "script", "exec"), space)
    return space


def test_the_converter_gives_the_rows_that_ftlab_reads(tmp_path):
    turns = [{"from": "human", "value": "Hi"}]
    sides = {side: {"from": "gpt", "value": side} for side in ("chosen", "rejected")}
    path = tmp_path / "pairs.json"
    path.write_text(json.dumps([{"conversations": turns, **sides}]))
    for name in ("polite_pairs", str(path), "polite_labels"):
        stage = "kto" if name == "polite_labels" else "dpo"
        found = parts(ftlab.Recipe(stage=stage, dataset=name).to_python())
        [row, *_] = json.loads(Path(found["FILES"][0]).read_text(encoding="utf-8"))
        ours = {k: v for k, v in ftlab.read(name)[0].items() if k not in ("source", "extra")}
        assert found["to_trl"](row) == ours
