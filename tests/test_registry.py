"""Dataset folders of LLaMA-Factory and ms-swift work as they are; the network is asked first."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from ftlab.data import read
from ftlab.data.registry import locate
from ftlab.errors import DataError

USER, ANSWER = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
WORSE = {"role": "assistant", "content": "b"}
OPENAI_TAGS = {
    "role_tag": "role",
    "content_tag": "content",
    "user_tag": "user",
    "assistant_tag": "assistant",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def write(folder: Path, listing: Any, **files: Any) -> None:
    """dataset_info.json and files of rows beside it: name_json=[rows]."""
    (folder / "dataset_info.json").write_text(json.dumps(listing), "utf-8")
    for name, rows in files.items():
        (folder / name.replace("_json", ".json")).write_text(json.dumps(rows), "utf-8")


def refused(name: str, folder: Path, **options: Any) -> str:
    with pytest.raises(DataError) as error:
        read(name, dataset_dir=folder, **options)
    return str(error.value)


# LLaMA-Factory ----------------------------------------------------------------------------------

# The entries of LLaMA-Factory's own dataset_info.json for its demo files, one of each kind, with
# rows of the shape that those files have.
ASKED = {"from": "human", "value": "q"}
DEMOS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "identity": ({}, {"instruction": "q", "input": "", "output": "a"}, "messages"),
    "alpaca": (
        {"columns": {"prompt": "instruction", "query": "input", "response": "output",
                     "system": "system", "history": "history"}},
        {"instruction": "q", "input": "", "output": "a", "system": "", "history": []},
        "messages",
    ),
    "glaive_toolcall_en_demo": (
        {"formatting": "sharegpt", "columns": {"messages": "conversations", "tools": "tools"}},
        {"conversations": [ASKED, {"from": "function_call",
                                   "value": '{"name": "f", "arguments": {"x": 1}}'},
                           {"from": "observation", "value": "3"}, {"from": "gpt", "value": "a"}],
         "tools": '[{"name": "f", "description": "d", "parameters": {}}]'},
        "messages",
    ),
    "mllm_demo": (
        {"formatting": "sharegpt", "columns": {"messages": "messages", "images": "images"},
         "tags": OPENAI_TAGS},
        {"messages": [USER, ANSWER], "images": []},
        "messages",
    ),
    "dpo_en_demo": (
        {"ranking": True, "formatting": "sharegpt",
         "columns": {"messages": "conversations", "chosen": "chosen", "rejected": "rejected"}},
        {"conversations": [ASKED], "chosen": {"from": "gpt", "value": "a"},
         "rejected": {"from": "gpt", "value": "b"}},
        "preference",
    ),
    "ultrafeedback": (
        {"ranking": True,
         "columns": {"prompt": "instruction", "chosen": "chosen", "rejected": "rejected"}},
        {"instruction": "q", "chosen": "a", "rejected": "b"},
        "preference",
    ),
    "kto_en_demo": (
        {"formatting": "sharegpt", "columns": {"messages": "messages", "kto_tag": "label"},
         "tags": OPENAI_TAGS},
        {"messages": [USER, ANSWER], "label": False},
        "kto",
    ),
    "ultrafeedback_kto": (
        {"columns": {"prompt": "prompt", "response": "completion", "kto_tag": "label"}},
        {"prompt": "q", "completion": "a", "label": True},
        "kto",
    ),
    "wiki_demo": ({"columns": {"prompt": "text"}}, {"text": "A page."}, "text"),
    "cosmopedia": (
        {"columns": {"prompt": "prompt", "response": "text"}},
        {"prompt": "q", "text": "a"},
        "messages",
    ),
    "lmsys_chat": (
        {"formatting": "sharegpt", "columns": {"messages": "conversation"}, "tags": OPENAI_TAGS},
        {"conversation": [USER, ANSWER]},
        "messages",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DEMOS)
def test_a_folder_of_llama_factory_works_unchanged(folder: Path, name: str) -> None:
    entry, row, kind = DEMOS[name]
    write(folder, {name: {"file_name": "rows.json", **entry}}, rows_json=[row, row])
    data = read(name, dataset_dir=folder)
    assert (len(data), data.kind, data.rejected) == (2, kind, [])
    (path, form), = locate(name, folder)  # fmt: skip
    assert path == folder / "rows.json" and form.kind == kind


def test_a_preference_dataset_is_read_in_full(folder: Path) -> None:
    entry, row, _ = DEMOS["dpo_en_demo"]
    write(folder, {"pairs": {"file_name": "rows.json", **entry}}, rows_json=[row])
    found = read("pairs", dataset_dir=folder)[0]
    assert (found["prompt"], found["chosen"], found["rejected"]) == ([USER], [ANSWER], [WORSE])


@pytest.mark.parametrize(
    "entry, expected",
    [
        # what LLaMA-Factory ignores or drops in silence
        ({"format": "sharegpt"}, "unknown key 'format'. Fix: write 'formatting'"),
        ({"columns": {"prompt": "instruction", "query": "input"}}, "name the answers too"),
        ({"formatting": "sharegpt", "columns": {"tools": "tools"}}, 'name the turns: "messages":'),
        (
            {"columns": {"prompt": "instruction", "chosen": "c", "rejected": "r"}},
            'write "ranking": true',
        ),
        (
            {"ranking": True, "columns": {"prompt": "instruction", "response": "output"}},
            'write "ranking": false',
        ),
        ({"ranking": True, "formatting": "text"}, "are no preference pairs"),
        ({"ranking": "yes"}, "ranking='yes'. Fix: write true or false"),
        ({"subset": "en"}, "says a part of a hub dataset"),
        ({"split": "validation"}, "says a part of a hub dataset"),
        ({"num_samples": "5"}, "num_samples='5'"),
        ({"split": 3}, "split=3. Fix: write a text"),
        ({"script_url": "x"}, "run no code that came with data"),
        ({"cloud_file_name": "s3://x"}, "does not read 'cloud_file_name'"),
    ],
)
def test_an_entry_that_would_go_wrong_in_silence_is_refused(
    folder: Path, entry: dict[str, Any], expected: str
) -> None:
    rows = [{"instruction": "q", "input": "", "output": "a"}]
    write(folder, {"mine": {"file_name": "rows.json", **entry}}, rows_json=rows)
    message = refused("mine", folder)
    assert expected in message and "mine: " in message


def test_labels_in_words_and_numbers_are_read_and_said(folder: Path) -> None:
    """LLaMA-Factory drops each row whose label is not a JSON boolean."""
    rows = [{"prompt": "q", "completion": "a", "label": label} for label in ("true", 0, "False")]
    entry = {"file_name": "rows.json", **DEMOS["ultrafeedback_kto"][0]}
    write(folder, {"mine": entry}, rows_json=rows)
    data = read("mine", dataset_dir=folder)
    assert [row["label"] for row in data] == [True, False, False]
    assert "labels such as 'true' are read as True" in data.reason
    (folder / "rows.json").write_text(json.dumps([rows[0] | {"label": "good"}]))
    assert "is text ('good'). Fix: write true or false" in refused("mine", folder)


def test_a_faulty_neighbour_does_not_matter(folder: Path) -> None:
    rows = [{"instruction": "q", "output": "a"}]
    write(folder, {"bad": {"x": 1}, "good": {"file_name": "rows.json"}}, rows_json=rows)
    assert len(read("good", dataset_dir=folder)) == 1
    assert "unknown key 'x'" in refused("bad", folder)


def test_a_system_turn_needs_no_tag_of_its_own(folder: Path) -> None:
    """With tags given in part, LLaMA-Factory drops every row that begins with a system turn."""
    system = {"role": "system", "content": "s"}
    entry = {"formatting": "sharegpt", "columns": {"messages": "messages"}, "tags": OPENAI_TAGS}
    rows = [{"messages": [system, USER, ANSWER]}]
    write(folder, {"mine": {"file_name": "rows.json", **entry}}, rows_json=rows)
    assert read("mine", dataset_dir=folder)[0]["messages"] == [system, USER, ANSWER]


# ms-swift ---------------------------------------------------------------------------------------


def test_the_list_of_ms_swift_is_understood(folder: Path) -> None:
    listing = [
        {"ms_dataset_id": "a/far", "hf_dataset_id": "b/far", "tags": ["chat"]},
        {"dataset_path": "pairs.json", "dataset_name": "pairs", "tags": ["rlhf", "dpo"],
         "columns": {"question": "query", "chosen": "response", "rejected": "rejected_response",
                     "label": "_"}},
    ]  # fmt: skip
    rows = [{"question": "q", "chosen": "a", "rejected": "b", "label": 7, "n": 1}]
    write(folder, listing, pairs_json=rows)
    for name in ("pairs", "pairs.json"):
        data = read(name, dataset_dir=folder)
        row = data[0]
        assert (row["prompt"], row["chosen"], row["rejected"]) == ([USER], [ANSWER], [WORSE])
        assert row["extra"] == {"label": 7, "n": 1}
    for name in ("a/far", "b/far"):
        assert "the rows are on a hub (hf:b/far and ms:a/far)" in refused(name, folder)


@pytest.mark.parametrize(
    "entry, expected",
    [
        ({"column": {}}, "write 'columns'"),
        ({"columns": ["q"]}, "columns=['q']"),
        ({"subsets": ["a", "b"]}, "keep one of them"),
        ({"split": [{"name": "x"}]}, "keep one of them"),
        ({"columns": {"a": "query", "b": "query"}}, "two fields get one name"),
    ],
)
def test_a_faulty_entry_of_ms_swift_is_refused(
    folder: Path, entry: dict[str, Any], expected: str
) -> None:
    listing = [{"dataset_path": "rows.json", "dataset_name": "mine", **entry}]
    write(folder, listing, rows_json=[{"a": "q", "b": "r"}])
    assert expected in refused("mine", folder)


def test_an_unknown_name_gets_the_nearest_of_the_list(folder: Path) -> None:
    write(folder, [{"dataset_path": "rows.json", "dataset_name": "pairs"}])
    assert "did you mean 'pairs'" in refused("pars", folder)
    write(folder, [1])
    assert "write one object of datasets" in refused("pars", folder)


# Hubs -------------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A hub of each kind that gives two rows and remembers what it was asked for."""
    from datasets import Dataset

    asked: list[Any] = []
    rows = Dataset.from_list([{"instruction": "q", "input": "", "output": "a"}] * 2)

    def load_dataset(*names: Any, **part: Any) -> Any:
        asked.append(("hf", *names, part))
        if names[0] == "gone":
            raise ConnectionError("no route\nto host")
        return rows

    class MsDataset:
        @staticmethod
        def load(*names: Any, **part: Any) -> Any:
            asked.append(("ms", *names, part))
            return rows

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    module = types.SimpleNamespace(MsDataset=MsDataset)
    monkeypatch.setitem(sys.modules, "modelscope", module)  # type: ignore[arg-type]
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    return asked


def test_a_hub_is_asked_only_when_the_user_says_so(folder: Path, hub: list[Any]) -> None:
    entry = {"hf_hub_url": "owner/rows", "subset": "en", "split": "test", "num_samples": 3}
    write(folder, {"far": entry})
    message = refused("far", folder)
    assert "the rows are on a hub (hf:owner/rows). Fix: pass online=True" in message and not hub
    data = read("far", dataset_dir=folder, online=True)
    assert hub == [("hf", "owner/rows", "en", {"data_dir": None, "split": "test"})]
    assert len(data) == 3 and {row["source"] for row in data} == {"rows:1", "rows:2"}


def test_a_file_that_is_there_needs_no_hub(folder: Path, hub: list[Any]) -> None:
    rows = [{"instruction": "q", "output": "here"}]
    write(folder, {"x": {"hf_hub_url": "o/r", "file_name": "rows.json"}}, rows_json=rows)
    assert read("x", dataset_dir=folder)[0]["messages"][1]["content"] == "here" and not hub
    assert read("x", dataset_dir=folder, online=True)[0]["messages"][1]["content"] == "a"


def test_model_scope_serves_what_is_only_there_or_what_it_is_asked_for(
    folder: Path, hub: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder, {"one": {"ms_hub_url": "m/one"},
                   "two": {"ms_hub_url": "m/two", "hf_hub_url": "h/two"}})  # fmt: skip
    for name in ("one", "two"):
        assert len(read(name, dataset_dir=folder, online=True)) == 2
    monkeypatch.setenv("USE_MODELSCOPE_HUB", "1")
    read("two", dataset_dir=folder, online=True)
    assert [call[:2] for call in hub] == [("ms", "m/one"), ("hf", "h/two"), ("ms", "m/two")]


def test_a_hub_that_fails_is_one_message(
    folder: Path, hub: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder, {"gone": {"hf_hub_url": "gone"}})
    message = refused("gone", folder, online=True)
    assert "gone: not loaded (ConnectionError: no route to host). Fix:" in message
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE=1 forbids the network" in refused("gone", folder, online=True)
