"""LLaMA-Factory's YAML of stages rm, dpo and kto under `ftlab train`, with rows of every format."""

import json

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
    bare = [{key: row[key] for key in row if key not in ("source", "extra")} for row in rows]
    path.write_text(json.dumps([row_as(form, row) for row in bare]), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "form", [f for f in PREFERENCE + KTO if f.columns.keys() & {"messages", "prompt"}],
    ids=lambda form: f"{form.title}: {', '.join(sorted(form.marks))}",
)  # fmt: skip
def test_rows_of_every_format_give_the_same_ids(form, rows, tiny, tmp_path):
    stage = {"preference": "dpo", "kto": "kto"}[form.kind]
    found = ftlab.read(written(form, rows[form.kind], tmp_path / "rows.json"))
    recipe = ftlab.Recipe(stage=stage)
    ours, theirs = (batches.dataset(tiny[1], r, recipe)[0] for r in (found, rows[form.kind]))
    assert ours.to_dict() == theirs.to_dict()


@pytest.mark.parametrize(
    "form",
    [f for f in PREFERENCE if f.name in ("alpaca", "swift", "prompt/completion")]
    + list({f.name: f for f in PREFERENCE if "messages" in f.columns}.values())
    + list({f.name: f for f in KTO if f.name != "alpaca" and "messages" in f.columns}.values())
    + [f for f in KTO if f.name == "alpaca"],
    ids=lambda form: f"{form.title}: {', '.join(sorted(form.marks))}",
)  # fmt: skip
def test_the_command_line_trains_on_it(form, rows, tmp_path, capsys):
    if form.columns.get("chosen") == "messages":
        pairs = [
            {"messages": [*row["prompt"], *row["chosen"]],
             "rejected_messages": [*row["prompt"], *row["rejected"]]}
            for row in rows["preference"]
        ]  # fmt: skip
        path = tmp_path / "rows.json"
        path.write_text(json.dumps(pairs), encoding="utf-8")
    else:
        path = written(form, rows[form.kind], tmp_path / "rows.json")
    stage = {"preference": "dpo", "kto": "kto"}[form.kind]
    code, said = train(tmp_path, capsys, stage=stage, dataset=str(path))
    assert code == 0, said
    assert "finished: 2 steps" in said
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()


ALPACA = {"columns": {"prompt": "instruction", "query": "input", "chosen": "chosen",
                      "rejected": "rejected"}, "ranking": True}  # fmt: skip
SHAREGPT = {"formatting": "sharegpt", "ranking": True, "columns": {
    "messages": "conversations", "chosen": "chosen", "rejected": "rejected"}}  # fmt: skip
OPENAI = {"formatting": "sharegpt", "ranking": True,
          "columns": {"messages": "messages", "chosen": "chosen", "rejected": "rejected"},
          "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user",
                   "assistant_tag": "assistant", "system_tag": "system"}}  # fmt: skip


@pytest.mark.parametrize(
    ("stage", "entry", "name"),
    [("rm", ALPACA, "alpaca"), ("dpo", SHAREGPT, "sharegpt"), ("dpo", OPENAI, "openai"),
     ("rm", SHAREGPT, "sharegpt")],
)  # fmt: skip
def test_ranking_datasets_of_dataset_info_are_trained_on(
    stage, entry, name, rows, tmp_path, capsys
):
    wanted = entry["columns"].get("messages")
    forms = (f for f in PREFERENCE if f.name == name and "prompt" in f.columns or wanted)
    form = next(f for f in forms if f.name == name and f.columns.get("messages") == wanted)
    written(form, rows["preference"], tmp_path / "pairs.json")
    info = {"pairs": {"file_name": "pairs.json", **entry}}
    (tmp_path / "dataset_info.json").write_text(json.dumps(info), encoding="utf-8")
    code, said = train(
        tmp_path, capsys, stage=stage, dataset="pairs", dataset_dir=str(tmp_path)
    )  # fmt: skip
    assert code == 0, said


@pytest.mark.parametrize("loss", ["hinge", "ipo", "orpo", "simpo"])
def test_each_pref_loss_of_llama_factory_runs(loss, tmp_path, capsys):
    code, said = train(
        tmp_path, capsys, stage="dpo", dataset="polite_pairs", pref_loss=loss, pref_beta=0.1
    )
    assert code == 0 and "finished: 2 steps" in said, said


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
