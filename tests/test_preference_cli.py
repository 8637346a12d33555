"""LLaMA-Factory's YAML of stages rm, dpo and kto under `ftlab train`, with rows of every format."""

import json
from pathlib import Path

import pytest
import yaml

import ftlab
from ftlab import batches
from ftlab.cli import main
from ftlab.data.row_as import row_as
from ftlab.data.shapes import FORMATS

# LLaMA-Factory's examples/train_lora, of version 0.9.5, made smaller.
EXAMPLE = {
    "model_name_or_path": "tiny", "trust_remote_code": True, "do_train": True,
    "finetuning_type": "lora", "lora_rank": 4, "lora_target": "all", "cutoff_len": 2048,
    "max_samples": 4, "overwrite_cache": True, "preprocessing_num_workers": 16,
    "dataloader_num_workers": 0, "logging_steps": 1, "save_steps": 500, "plot_loss": True,
    "overwrite_output_dir": True, "report_to": "none", "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 2, "learning_rate": "5.0e-6", "num_train_epochs": 1.0,
    "lr_scheduler_type": "cosine", "warmup_ratio": 0.1, "bf16": False, "ddp_timeout": 180000000,
    "resume_from_checkpoint": None,
}  # fmt: skip
PREFERENCE = [form for form in FORMATS if form.kind == "preference"]
KTO = [form for form in FORMATS if form.kind == "kto"]


@pytest.fixture(scope="module")
def rows():
    return {
        "preference": ftlab.read("polite_pairs").take(4),
        "kto": ftlab.read("polite_labels").take(4),
    }


def train(tmp_path, capsys, **changes):
    path = tmp_path / "recipe.yaml"
    values = {**EXAMPLE, "output_dir": str(tmp_path / "out"), **changes}
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    code = main(["train", str(path)])
    said = capsys.readouterr()
    return code, said.out + said.err


def written(form, rows, path):
    """The rows in a file, in the words of a format."""
    bare = [{key: row[key] for key in row if key not in ("source", "extra")} for row in rows]
    if form.columns.keys() & {"messages", "prompt"}:
        found = [row_as(form, row) for row in bare]
    else:  # the question is part of both answers
        dialect, tags = form.dialect, form.tags
        sides = {side: form.columns[side] for side in ("chosen", "rejected")}
        found = [
            {column: [{dialect.role: tags[f"{turn['role']}_tag"], dialect.content: turn["content"]}
                      for turn in [*row["prompt"], *row[side]]]
             for side, column in sides.items()}
            for row in bare
        ]  # fmt: skip
    path.write_text(json.dumps(found), encoding="utf-8")
    return path


def named(form):
    return f"{form.title}: {', '.join(sorted(form.marks))}"


@pytest.mark.parametrize("form", PREFERENCE + KTO, ids=named)
def test_rows_of_every_format_give_the_same_ids(form, rows, tiny, tmp_path):
    stage = {"preference": "dpo", "kto": "kto"}[form.kind]
    found = ftlab.read(written(form, rows[form.kind], tmp_path / "rows.json"))
    recipe = ftlab.Recipe(stage=stage)
    ours, theirs = (batches.dataset(tiny[1], r, recipe)[0] for r in (found, rows[form.kind]))
    assert ours.to_dict() == theirs.to_dict()


@pytest.mark.parametrize(("stage", "forms"), [("dpo", PREFERENCE), ("rm", PREFERENCE[:1]),
                                              ("kto", KTO)])  # fmt: skip
def test_the_command_line_trains_on_every_format(stage, forms, rows, tmp_path, capsys):
    """One file for each format, all of them in one run: a row of each is trained on."""
    files = [
        str(written(form, rows[form.kind][i % 4 :][:1], tmp_path / f"{i}.json"))
        for i, form in enumerate(forms)
    ]
    code, said = train(
        tmp_path, capsys, stage=stage, dataset=",".join(files), max_samples=100_000,
        per_device_train_batch_size=4, gradient_accumulation_steps=1,
    )  # fmt: skip
    assert code == 0, said
    assert f"finished: {-(-len(forms) // 4)} steps" in said
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()


def trl(rows, *answers):
    """Rows as TRL's documentation writes them: a list of messages for each part."""
    return [{key: row[key] for key in ("prompt", *answers)} for row in rows]


def test_the_command_line_trains_on_conversations_of_trl(rows, tiny, tmp_path, capsys):
    cases = (("dpo", "preference", ("chosen", "rejected")), ("kto", "kto", ("completion", "label")))
    for stage, kind, answers in cases:
        path = tmp_path / f"{stage}.jsonl"
        lines = map(json.dumps, trl(rows[kind], *answers))
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        recipe, found = ftlab.Recipe(stage=stage), ftlab.read(path)
        ours, theirs = (batches.dataset(tiny[1], r, recipe)[0] for r in (found, rows[kind]))
        assert ours.to_dict() == theirs.to_dict()
        folder = str(tmp_path / f"out_{stage}")
        code, said = train(
            tmp_path, capsys, stage=stage, dataset=str(path), output_dir=folder
        )  # fmt: skip
        assert code == 0 and "finished: 2 steps" in said, said


ALPACA = {"columns": {"prompt": "instruction", "query": "input", "chosen": "chosen",
                      "rejected": "rejected"}, "ranking": True}  # fmt: skip
ROLES = {"role_tag": "role", "content_tag": "content", "user_tag": "user",
         "assistant_tag": "assistant"}  # fmt: skip
OPENAI = {
    "formatting": "sharegpt",
    "ranking": True,
    "tags": {**ROLES, "system_tag": "system"},
    "columns": {"messages": "messages", "chosen": "chosen", "rejected": "rejected"},
}
# The entries of LLaMA-Factory's own dataset_info.json, of the rows below.
OWN = {
    "dpo_en_demo": {"formatting": "sharegpt", "ranking": True, "columns": {
        "messages": "conversations", "chosen": "chosen", "rejected": "rejected"}},
    "ultrafeedback": {"ranking": True, "columns": {
        "prompt": "instruction", "chosen": "chosen", "rejected": "rejected"}},
    "orca_pairs": {"ranking": True, "columns": {"prompt": "question", "chosen": "chosen",
                                                "rejected": "rejected", "system": "system"}},
    "kto_en_demo": {"formatting": "sharegpt", "tags": ROLES,
                    "columns": {"messages": "messages", "kto_tag": "label"}},
    "kto_mix_en": {"formatting": "sharegpt", "tags": ROLES,
                   "columns": {"messages": "completion", "kto_tag": "label"}},
    "ultrafeedback_kto": {"columns": {"prompt": "prompt", "response": "completion",
                                      "kto_tag": "label"}},
}  # fmt: skip
TURNS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]
PAIR = {"chosen": "Yes", "rejected": "No"}
ROW = {
    "alpaca": {"instruction": "Hi", "input": "there", **PAIR},
    "openai": {"messages": TURNS[:1], "chosen": TURNS[1], "rejected": TURNS[1]},
    "dpo_en_demo": {"conversations": [{"from": "human", "value": "Hi"}],
                    **{side: {"from": "gpt", "value": text} for side, text in PAIR.items()}},
    "ultrafeedback": {"instruction": "Hi", **PAIR},
    "orca_pairs": {"system": "", "question": "Hi", **PAIR},
    "kto_en_demo": {"messages": TURNS, "label": True},
    "kto_mix_en": {"prompt": "Hi", "completion": TURNS, "label": True},
    "ultrafeedback_kto": {"prompt": "Hi", "completion": "Yes", "label": True},
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "stages"),
    [("alpaca", ["rm", "dpo"]), ("openai", ["dpo"]), ("dpo_en_demo", ["rm", "dpo"]),
     ("ultrafeedback", ["dpo"]), ("orca_pairs", ["dpo"]), ("kto_en_demo", ["kto"]),
     ("kto_mix_en", ["kto"]), ("ultrafeedback_kto", ["kto"])],
)  # fmt: skip
def test_datasets_of_dataset_info_are_trained_on(name, stages, tmp_path, capsys):
    entry = {"alpaca": ALPACA, "openai": OPENAI, **OWN}[name]
    other = {"label": False} if stages == ["kto"] else {}
    (tmp_path / "rows.json").write_text(json.dumps([ROW[name], ROW[name] | other]))
    info = {name: {"file_name": "rows.json", **entry}}
    (tmp_path / "dataset_info.json").write_text(json.dumps(info), encoding="utf-8")
    for stage in stages:
        code, said = train(
            tmp_path, capsys, stage=stage, dataset=name, dataset_dir=str(tmp_path),
            output_dir=str(tmp_path / stage),
        )  # fmt: skip
        assert code == 0 and "finished: 1 steps" in said, said


@pytest.mark.parametrize("loss", ["hinge", "ipo", "orpo", "simpo"])
def test_each_pref_loss_of_llama_factory_runs(loss, tmp_path, capsys):
    """Held-out rows are scored as it goes: ORPO and SimPO once fell over them."""
    code, said = train(
        tmp_path, capsys, stage="dpo", dataset="polite_pairs", pref_loss=loss, pref_beta=0.1,
        eval_dataset="polite_pairs_test", eval_strategy="steps", eval_steps=2,
    )  # fmt: skip
    assert code == 0 and "finished: 2 steps" in said, said
    *_, last = (tmp_path / "out" / "history.jsonl").read_text().splitlines()
    assert {"eval_loss", "eval_rewards/accuracies"} <= json.loads(last).keys()


@pytest.mark.parametrize(("stage", "dataset"), [("rm", "polite_pairs"), ("kto", "polite_labels")])
def test_held_out_rows_are_scored_in_every_stage(stage, dataset, tmp_path, capsys):
    code, said = train(
        tmp_path, capsys, stage=stage, dataset=dataset, val_size=0.5, eval_strategy="steps",
        eval_steps=1,
    )  # fmt: skip
    assert code == 0 and "eval_loss" in (tmp_path / "out" / "history.jsonl").read_text(), said


EXAMPLES = Path(__file__).parents[1] / "examples"


def test_the_examples_run_one_after_the_other(tmp_path, monkeypatch, capsys):
    """Those that the README names, in a few steps: SFT, DPO from there, and a reward model."""
    monkeypatch.chdir(tmp_path)
    few = ["max_steps=2", "max_samples=8", "eval_steps=2", "per_device_train_batch_size=4"]
    for name, folder in (("lora_sft", "first"), ("dpo_lora", "polite"), ("rm_lora", "reward")):
        command = ["train", str(EXAMPLES / f"{name}.yaml"), f"output_dir=runs/{folder}", *few]
        assert main(command) == 0, capsys.readouterr()
        assert "eval_loss" in Path("runs", folder, "history.jsonl").read_text()


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_example_is_a_recipe(path):
    assert ftlab.Recipe.from_yaml(path).model_name_or_path == "tiny"


def test_a_ranking_flag_and_a_stage_that_disagree_are_refused(rows, tmp_path, capsys):
    written(PREFERENCE[0], rows["preference"], tmp_path / "pairs.json")
    columns = {"prompt": "instruction", "query": "input", "response": "chosen"}
    info = {
        "pairs": {"file_name": "pairs.json", **ALPACA},
        "plain": {"file_name": "pairs.json", "columns": columns},
        "wrong": {"file_name": "pairs.json", **ALPACA, "ranking": False},
    }
    (tmp_path / "dataset_info.json").write_text(json.dumps(info), encoding="utf-8")
    there = {"dataset_dir": str(tmp_path)}
    code, said = train(tmp_path, capsys, stage="sft", dataset="pairs", **there)
    assert code == 2 and "stage: sft and the data do not fit" in said
    code, said = train(tmp_path, capsys, stage="dpo", dataset="plain", **there)
    assert code == 2 and "stage: dpo and the data do not fit" in said
    code, said = train(tmp_path, capsys, stage="dpo", dataset="wrong", **there)
    assert code == 2 and "ranking" in said


def test_a_run_folder_of_each_stage_repeats_itself(tmp_path, capsys):
    """recipe.yaml in a run folder runs again as it is, and gives the same losses."""
    code, said = train(tmp_path, capsys, stage="dpo", dataset="polite_pairs", learning_rate=1e-3)
    assert code == 0, said
    first = tmp_path / "out"
    again = main(["train", str(first / "recipe.yaml"), f"output_dir={tmp_path / 'again'}"])
    assert again == 0
    one, two = (
        [json.loads(line)["loss"] for line in (f / "history.jsonl").read_text().splitlines()]
        for f in (first, tmp_path / "again")
    )
    assert one == two
