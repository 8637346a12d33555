"""The command line: what it prints, how it exits, and that a mistake leaves nothing behind."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ftlab.cli import main
from tests.test_recipe import TUTORIAL

BRIEF = {
    "model_name_or_path": "tiny",
    "dataset": "world_qa",
    "max_samples": 16,
    "max_steps": 2,
    "per_device_train_batch_size": 4,
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def recipe(folder, **changes):
    path = folder / "train.yaml"
    path.write_text(yaml.safe_dump({**BRIEF, **changes}))
    return str(path)


def test_the_yaml_of_a_llamafactory_tutorial_trains_as_it_is(folder, capsys):
    Path("train.yaml").write_text(TUTORIAL.replace("103505", "40"))
    assert main(["train", "train.yaml", "num_train_epochs=1"]) == 0
    out, err = capsys.readouterr()
    assert "finished: 5 steps" in out
    assert "overwrite_cache: no effect" in err and "bfloat16 asked for, float32 used" in err
    assert "100%" in err  # the progress bar came to its end
    run = folder / "saves/qwen2-7b/lora/sft"
    assert (run / "adapter_model.safetensors").is_file() and (run / "training_loss.svg").is_file()


def test_train_then_chat_then_eval_on_the_command_line(folder, capsys, monkeypatch):
    assert main(["train", recipe(folder, output_dir="out")]) == 0
    asked = iter(["/clear", "Hello", "/exit"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(asked))
    chat = recipe(folder, adapter_name_or_path="out", max_new_tokens=8)
    assert main(["chat", chat]) == 0
    assert "model>" in capsys.readouterr().out
    scored = recipe(folder, adapter_name_or_path="out", eval_dataset="world_qa_test")
    assert main(["eval", scored]) == 0
    assert "exact_match on world_qa_test" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lora_rnk": 8}, "Did you mean 'lora_rank'"),
        ({"learning_rate": "fast"}, "expected a number"),
        ({"dataset": "wrld_qa"}, "world_qa"),
        ({"dataset": None}, "Set dataset"),
        ({"dataset": "empty.json"}, "empty.json"),
        ({"dataset": "no_answer.json"}, "no_answer.json:2"),
        ({"model_name_or_path": "./nowhere"}, "neither a model folder nor a hub name"),
        ({"model_name_or_path": "not_a_model"}, "neither a model folder nor a hub name"),
        ({"model_name_or_path": "bare"}, "config.json is missing"),
        ({"model_name_or_path": "remote"}, "run code that is not its own"),
        ({"adapter_name_or_path": "bare"}, "adapter_config.json is missing"),
        ({"output_dir": "used"}, "in use by an earlier run"),
        ({"output_dir": "train.yaml"}, "output_dir is a file"),
    ],
)
def test_a_mistake_is_one_message_exit_2_and_nothing_written(folder, changes, message, capsys):
    Path("empty.json").write_text("")
    Path("no_answer.json").write_text('[\n{"instruction": "Hi", "output": ""}\n]')
    Path("bare").mkdir()
    Path("used").mkdir()
    Path("used", "notes.txt").write_text("mine")
    Path("remote").mkdir()
    Path("remote", "config.json").write_text(json.dumps({"auto_map": {"AutoModel": "evil.Model"}}))
    file = recipe(folder, **changes)
    before = sorted(folder.rglob("*"))
    assert main(["train", file]) == 2
    err = capsys.readouterr().err
    assert message in err and "Traceback" not in err
    assert len([line for line in err.splitlines() if line.startswith("ftlab:")]) == 1
    assert sorted(folder.rglob("*")) == before


def test_an_output_folder_that_names_a_command_is_only_a_name(folder, tmp_path):
    assert main(["train", recipe(folder, output_dir="a; touch pwned $(id)")]) == 0
    assert not Path("pwned").exists() and Path("a; touch pwned $(id)").is_dir()


def test_values_on_the_command_line_win_over_the_file(folder, capsys):
    assert main(["train", recipe(folder), "max_steps=1", "output_dir=x"]) == 0
    assert "finished: 1 steps" in capsys.readouterr().out


def test_a_word_that_is_no_override_is_named(folder, capsys):
    assert main(["train", recipe(folder), "max_steps"]) == 2
    assert "expected key=value" in capsys.readouterr().err


def test_help_loads_no_torch():
    code = "import sys\nfrom ftlab.cli import main\n"
    code += "try: main(['--help'])\nexcept SystemExit: pass\n"
    code += "assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_the_installed_command_runs(folder):
    script = Path(sys.executable).with_name("ftlab")
    if not script.is_file():
        pytest.skip("ftlab is not installed in this environment")
    done = subprocess.run([script, "train", "missing.yaml"], capture_output=True, text=True)
    assert done.returncode == 2 and "no such recipe file" in done.stderr


def test_lab_opens_the_first_notebook_on_this_machine_only(monkeypatch):
    def stop(program, arguments):
        raise SystemExit(" ".join(arguments))

    monkeypatch.setattr("os.execv", stop)
    with pytest.raises(SystemExit) as called:
        main(["lab", "--no-browser"])
    assert "default_url=/lab/tree/notebooks/00_start_here.ipynb" in str(called.value)
    assert "--ServerApp.ip=127.0.0.1" in str(called.value) and "--no-browser" in str(called.value)
