"""The command line: what it prints, how it exits, and that a mistake leaves nothing behind."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import yaml

from ftlab.cli import main
from ftlab.serving.terminal import Conversation
from tests.test_generate import saying
from tests.test_recipe import TUTORIAL
from tests.throwaway import small_model, small_tokenizer

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


# --- chat ----------------------------------------------------------------------------------------


@pytest.fixture
def talk(monkeypatch):
    """Type lines to a model that answers `text`; the conversation afterwards."""

    def typed(lines, text="你好 👍", **options):
        conversation = Conversation(
            saying(small_model(), small_tokenizer(), text), small_tokenizer(),
            options.pop("system", None), {"max_new_tokens": 99, **options},
        )  # fmt: skip
        waiting = iter(lines)

        def read(prompt):
            line = next(waiting, EOFError)
            if not isinstance(line, str):
                raise line
            return line

        monkeypatch.setattr("builtins.input", read)
        conversation.run()
        return conversation

    return typed


def test_answers_stream_into_the_terminal_and_into_the_next_prompt(talk, capsys):
    conversation = talk(["你好吗？", "", "  and you  "])
    assert capsys.readouterr().out.count("model> 你好 👍\n") == 2
    assert [turn["content"] for turn in conversation.messages] == [
        "你好吗？", "你好 👍", "and you", "你好 👍",
    ]  # fmt: skip


def test_clear_and_system_start_over(talk, capsys):
    conversation = talk(["Hi", "/system Be brief.", "Hi", "/clear"], system="Be kind.")
    assert conversation.messages == [{"role": "system", "content": "Be brief."}]
    assert talk(["/system", "/base", "/exit", "never read"], system="x").messages == []
    out = capsys.readouterr().out
    assert "there is no adapter" in out and "/base switches" not in out


def test_a_word_with_a_slash_that_is_no_command_is_a_message(talk):
    assert talk(["/clear all?"]).messages[0]["content"] == "/clear all?"


def test_thoughts_are_shown_apart_and_not_kept(talk, capsys, monkeypatch):
    text = "<think>\n1 + 1\n</think>\n\nTwo."
    assert talk(["?"], text).messages[-1]["content"] == "Two."
    assert "model> (thinks) 1 + 1\nTwo.\n" in capsys.readouterr().out
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    talk(["?"], text)
    out = capsys.readouterr().out
    assert "\x1b[2m(thinks) 1\x1b[0m" in out and "\x1b[2mTwo" not in out


def test_ctrl_c_ends_the_answer_and_not_the_program(talk, capsys, monkeypatch):
    from ftlab.streaming import Stream

    plain, count = Stream.__next__, []

    def interrupted(self):
        count.append(1)
        if len(count) == 4:
            raise KeyboardInterrupt
        return plain(self)

    monkeypatch.setattr(Stream, "__next__", interrupted)
    conversation = talk([KeyboardInterrupt, "first", "second"], "abcdef")
    out = capsys.readouterr().out
    assert "(/exit or Ctrl-D ends)" in out and "model> abc (ended)\n" in out
    assert [turn["content"] for turn in conversation.messages] == [
        "first", "abc", "second", "abcdef",
    ]  # fmt: skip


def test_what_ends_an_answer_early_is_said(talk, capsys):
    talk(["Hi"], "abcdef", max_new_tokens=3)
    assert "model> abc (more was to come: max_new_tokens)" in capsys.readouterr().out
    assert talk(["long " * 100]).messages == []
    assert "the model reads 256" in capsys.readouterr().out


def test_bytes_that_are_no_text_do_not_end_the_chat(talk):
    assert talk(["caf\udce9"]).messages[0]["content"] == "caf\ufffd"


def test_base_switches_the_adapter_off_and_on(folder, capsys, monkeypatch):
    train = recipe(folder, output_dir="out", max_steps=8, learning_rate=0.01)
    assert main(["train", train]) == 0
    asked = iter(["Who bakes?", "/clear", "/base", "Who bakes?", "/clear", "/base", "Who bakes?"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(asked, "/exit"))
    capsys.readouterr()
    chat = recipe(folder, adapter_name_or_path="out", max_new_tokens=8, do_sample=False)
    assert main(["chat", chat]) == 0
    answers = [line for line in capsys.readouterr().out.splitlines() if line[:5] in
               ("model", "base>")]  # fmt: skip
    assert answers[0] == answers[2] and answers[0].startswith("model> ")
    assert answers[1].startswith("base> ") and answers[1][6:] != answers[0][7:]


# --- serve ---------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_serve_answers_until_ctrl_c(folder):
    pytest.importorskip("uvicorn", reason="the extra serve is not installed")
    command = [sys.executable, "-m", "ftlab.cli", "serve", "tiny", "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        line = process.stdout.readline()
        assert line.startswith("tiny at http://127.0.0.1:")
        with urllib.request.urlopen(line.split()[2] + "/models", timeout=30) as answer:
            assert json.load(answer)["data"][0]["id"] == "tiny"
        process.send_signal(signal.SIGINT)
        assert (process.wait(30), process.stderr.read()) == (0, "")


def test_serve_refuses_bits_that_no_library_has(folder, capsys):
    pytest.importorskip("uvicorn", reason="the extra serve is not installed")
    assert main(["serve", "tiny", "--port", "0", "--quantization-bit", "3"]) == 2
    assert "quantization_bit=3: bnb knows 8, 4" in capsys.readouterr().err


def test_a_wrong_folder_to_serve_is_one_message(folder, capsys):
    pytest.importorskip("uvicorn", reason="the extra serve is not installed")
    assert main(["serve", "./nowhere", "--port", "0"]) == 2
    assert "neither a model folder nor a hub name" in capsys.readouterr().err


def test_a_reader_that_leaves_early_gets_no_traceback():
    command = [sys.executable, "-m", "ftlab.cli", "data", "check", "messy"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait(60) == 141
