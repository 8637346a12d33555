"""Every dialect that people write is understood, refused with a way out, and written back."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from ftlab.data import Data, read
from ftlab.data.records import BadRow
from ftlab.errors import DataError

Row = dict[str, Any]
USER, ANSWER = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
WORSE = {"role": "assistant", "content": "b"}
SYSTEM = {"role": "system", "content": "s"}
TOOL: Row = {"name": "add", "parameters": {"properties": {"x": {"type": "number"}}}}
CALL = {"type": "function", "function": {"name": "add", "arguments": {"x": 1, "y": "zwei"}}}
CALLS = {"role": "assistant", "content": "", "tool_calls": [CALL]}
RESULT = {"role": "tool", "content": '{"sum": 3}'}


def save(folder: Path, *rows: Any, name: str = "rows.jsonl") -> Path:
    path = folder / name
    path.write_text("\n".join(json.dumps(row) for row in rows), "utf-8")
    return path


def one(folder: Path, row: Row, **options: Any) -> Row:
    """What becomes of the row, without where it came from."""
    found = read(save(folder, row), **options)[0]
    assert found.pop("source") == "rows.jsonl:1"
    extra = found.pop("extra")
    return found | ({"extra": extra} if extra else {})


def refused(folder: Path, row: Any, **options: Any) -> str:
    with pytest.raises(DataError) as error:
        read(save(folder, row), **options)
    return str(error.value)


def turns(*messages: Row) -> list[Row]:
    """Messages as ShareGPT turns."""
    words = {"user": "human", "assistant": "gpt", "system": "system", "tool": "observation"}
    return [{"from": words[m["role"]], "value": m["content"]} for m in messages]


# What is understood -----------------------------------------------------------------------------

TALK = {"messages": [USER, ANSWER]}
PAIR = {"prompt": [USER], "chosen": [ANSWER], "rejected": [WORSE]}
JUDGED = {"prompt": [USER], "completion": [ANSWER], "label": True}


@pytest.mark.parametrize(
    "row, expected",
    [
        ({"instruction": "q", "response": "a"}, TALK),
        ({"query": "q", "response": "a", "history": [], "system": ""}, TALK),
        ({"question": "q", "response": "a"}, TALK),
        ({"input": "q", "output": "a"}, TALK),
        ({"conversation": [USER, ANSWER]}, TALK),
        ({"messages": turns(USER, ANSWER)}, TALK),
        ({"prompt": [USER], "completion": [ANSWER]}, TALK),
        ({"prompt": [SYSTEM, USER], "completion": "a"}, {"messages": [SYSTEM, USER, ANSWER]}),
        ({"query": "q", "response": "a", "history": [["x", "y"]], "system": "s"}, "sxyqa"),
        ({"instruction": "q", "output": "a", "history": '[["x", "y"]]'}, "xyqa"),
        # preference
        ({"instruction": "q", "input": "", "chosen": "a", "rejected": "b"}, PAIR),
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, PAIR),
        ({"prompt": [USER], "chosen": [ANSWER], "rejected": [WORSE]}, PAIR),
        ({"prompt": "q", "chosen": [USER, ANSWER], "rejected": [USER, WORSE]}, PAIR),
        ({"chosen": [USER, ANSWER], "rejected": [USER, WORSE]}, PAIR),
        ({"chosen": turns(USER, ANSWER), "rejected": turns(USER, WORSE)}, PAIR),
        ({"messages": [USER], "chosen": ANSWER, "rejected": WORSE}, PAIR),
        ({"messages": [USER], "chosen": "a", "rejected": "b"}, PAIR),
        (
            {
                "conversations": turns(USER),
                "chosen": turns(ANSWER)[0],
                "rejected": turns(WORSE)[0],
            },
            PAIR,
        ),
        ({"messages": [USER, ANSWER], "rejected_response": "b"}, PAIR),
        ({"messages": [USER, ANSWER], "rejected_messages": [USER, WORSE]}, PAIR),
        ({"query": "q", "response": "a", "rejected_response": "b"}, PAIR),
        (
            {"chosen": [USER, ANSWER], "rejected": [USER, WORSE], "system": "s"},
            PAIR | {"extra": {"system": "s"}},
        ),
        # KTO
        ({"instruction": "q", "output": "a", "kto_tag": True}, JUDGED),
        ({"prompt": "q", "completion": "a", "label": True}, JUDGED),
        ({"prompt": [USER], "completion": [ANSWER], "label": False}, JUDGED | {"label": False}),
        ({"messages": [USER, ANSWER], "label": True}, JUDGED),
        ({"conversations": turns(USER, ANSWER), "kto_tag": False}, JUDGED | {"label": False}),
        ({"query": "q", "response": "a", "label": 1}, JUDGED),
        ({"prompt": "q", "completion": "a", "label": "False"}, JUDGED | {"label": False}),
        # a label that says something else is none
        ({"messages": [USER, ANSWER], "label": "cat"}, TALK | {"extra": {"label": "cat"}}),
        ({"text": "t", "label": 1}, {"text": "t", "extra": {"label": 1}}),
    ],
)
def test_a_row_becomes_what_it_says(tmp_path: Path, row: Row, expected: Any) -> None:
    found = one(tmp_path, row)
    if isinstance(expected, str):
        assert "".join(turn["content"] for turn in found["messages"]) == expected
    else:
        assert found == expected


@pytest.mark.parametrize(
    "messages",
    [
        # OpenAI: arguments are JSON text, the content of a call is null
        [USER, {"role": "assistant", "content": None, "tool_calls": [
            {"type": "function", "function": {"name": "add", "arguments": '{"x": 1, "y": "zwei"}'}}
        ]}, RESULT, ANSWER],
        [USER, {"role": "assistant", "tool_calls": [CALL]}, RESULT, ANSWER],
        [USER, {"role": "assistant", "content": "", "function_call": CALL["function"]},
         RESULT | {"role": "function"}, ANSWER],
        # ms-swift
        [USER, {"role": "tool_call", "content": json.dumps(CALL["function"])},
         {"role": "tool_response", "content": RESULT["content"]}, ANSWER],
    ],
)  # fmt: skip
def test_tool_calls_of_every_dialect_are_the_same(tmp_path: Path, messages: list[Row]) -> None:
    talk = [USER, CALLS, RESULT, ANSWER]
    for tools in ([TOOL], json.dumps([TOOL]), TOOL):
        row = {"messages": messages, "tools": tools}
        assert one(tmp_path, row) == {"messages": talk, "tools": [TOOL]}
    assert one(tmp_path, {"messages": messages, "tools": "[]"}) == {"messages": talk}


def test_sharegpt_calls_tools_with_thoughts_and_several_at_once(tmp_path: Path) -> None:
    call = json.dumps(CALL["function"])
    said = [
        {"from": "human", "value": "q"},
        {"from": "function_call", "value": f"<think>hm</think>[{call}, {call}]"},
        {"from": "observation", "value": ""},
        {"from": "gpt", "value": "a"},
    ]
    found = one(tmp_path, {"conversations": said})["messages"]
    assert found[1] == CALLS | {"content": "<think>hm</think>", "tool_calls": [CALL, CALL]}
    assert found[2] == {"role": "tool", "content": ""}


def test_calls_of_ms_swift_join_the_answer_before_them(tmp_path: Path) -> None:
    call = {"role": "tool_call", "content": json.dumps(CALL["function"])}
    answer = {"role": "tool_response", "content": "3"}
    found = one(tmp_path, {"messages": [USER, ANSWER, call, call, answer, answer, ANSWER]})
    roles = [turn["role"] for turn in found["messages"]]
    assert roles == ["user", "assistant", "tool", "tool", "assistant"]
    assert found["messages"][1] == ANSWER | {"tool_calls": [CALL, CALL]}


def test_weights_and_thoughts_stay_with_their_turns(tmp_path: Path) -> None:
    thinking = ANSWER | {"reasoning_content": "because"}
    row = {"messages": [USER, ANSWER | {"weight": 0}, USER, thinking | {"weight": 1.0}]}
    found = one(tmp_path, row)["messages"]
    assert found[1] == ANSWER | {"weight": 0} and found[3] == thinking | {"weight": 1}
    row = {"messages": [USER | {"loss": False}, ANSWER | {"loss": False}, USER, ANSWER]}
    assert one(tmp_path, row)["messages"] == [USER, ANSWER | {"weight": 0}, USER, ANSWER]


def test_parts_of_text_are_joined_and_nulls_count_as_absent(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    nothing = {"tool_calls": None, "weight": None, "name": None}
    row = {"messages": [{"role": "user", "content": parts}, ANSWER | nothing], "tools": None}
    assert one(tmp_path, row) == {"messages": [USER | {"content": "one\ntwo"}, ANSWER]}


def test_other_keys_of_a_turn_are_kept(tmp_path: Path) -> None:
    row = {"messages": [USER | {"name": "ada"}, ANSWER, {"role": "tool", "content": "c"}, ANSWER]}
    row["messages"][2]["tool_call_id"] = "call_1"
    assert one(tmp_path, row) == row


def test_developers_and_a_system_field_give_the_system_prompt(tmp_path: Path) -> None:
    expected = {"messages": [SYSTEM, USER, ANSWER]}
    developer = SYSTEM | {"role": "developer"}
    assert one(tmp_path, {"messages": [developer, USER, ANSWER]}) == expected
    assert one(tmp_path, {"messages": [USER, ANSWER], "system": "s"}) == expected
    assert one(tmp_path, {"messages": [SYSTEM, USER, ANSWER], "system": "s"}) == expected


def test_the_reason_says_what_was_found_and_what_is_not_used(tmp_path: Path) -> None:
    row = {"conversations": turns(USER, ANSWER), "topic": "x", "label": "yes"}
    reason = read(save(tmp_path, row)).reason
    assert reason == (
        "sharegpt: found 'conversations' with turns of 'from' and 'value'; not used: 'topic', "
        "'label'"
    )
    path = save(tmp_path, {"prompt": "q", "completion": "a", "label": "true"})
    assert read(path).reason == (
        "prompt/completion KTO: found 'prompt', 'completion', 'label'; labels such as 'true' are "
        "read as True"
    )
    assert (
        "alpaca: named 'prompt'"
        in read(path, columns={"prompt": "prompt", "response": "completion"}).reason
    )


# What is refused --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "row, expected",
    [
        ({"chosen": [USER, ANSWER], "rejected": [USER, ANSWER]}, "answer are the same"),
        ({"chosen": [USER, ANSWER], "rejected": [SYSTEM, USER, ANSWER]}, "ask different questions"),
        ({"chosen": "a", "rejected": "b"}, "no known format; found ['chosen', 'rejected']"),
        ({"prompt": "q", "chosen": "a", "rejected": 7}, 'field "rejected": is a number (7), not'),
        ({"prompt": "q", "chosen": "a", "rejected": ""}, 'field "rejected": is empty'),
        (
            {"prompt": "q", "chosen": [SYSTEM | {"role": "user"}, ANSWER], "rejected": "b"},
            'field "chosen": does not begin with the prompt of the row',
        ),
        ({"messages": [USER, ANSWER], "chosen": "a", "rejected": "b"}, "does not end with a quest"),
        ({"messages": [USER, ANSWER, USER], "rejected_response": "b"}, "the last turn is not an"),
        ({"messages": [USER, ANSWER], "kto_tag": "cat"}, "is text ('cat'). Fix: write true or fal"),
        ({"messages": [USER, ANSWER], "kto_tag": None}, 'field "kto_tag": is null'),
        ({"messages": [SYSTEM, USER, ANSWER], "system": "t"}, "another system prompt"),
        ({"messages": [USER, ANSWER | {"weight": 2}]}, "turn 2 has the weight 2. Fix: write 0"),
        ({"messages": [USER | {"weight": 1}, ANSWER]}, "only answers are trained"),
        ({"messages": [USER | {"tool_calls": [CALL]}, ANSWER]}, "turn 1 calls tools, but is from"),
        ({"messages": [USER, CALLS, ANSWER]}, "turn 3 is from assistant, expected user or tool"),
        ({"messages": [USER, {"role": "tool_call", "content": "add"}]}, "calls no tool by name"),
        ({"messages": [USER, {"role": "tool_call", "content": "[]"}]}, "calls no tool by name: []"),
        ({"messages": [USER, {"role": "tool_call", "content": "{'a'"}]}, "not readable as JSON: s"),
        (
            {"messages": [USER, CALLS | {"tool_calls": [
                {"function": {"name": "f", "arguments": "[1]"}}]}]},
            "turn 2 arguments of 'f' are a list ([1])",
        ),
        ({"messages": [USER, ANSWER], "tools": "[{}]"}, 'field "tools": tool 1 has no name'),
        ({"messages": [USER, ANSWER], "tools": 7}, "is a number (7), not a list of tools"),
        ({"messages": [USER, ANSWER], "tools": "[{"}, "is not readable as JSON: the JSON breaks"),
        ({"messages": [USER | {"content": [{"type": "image_url"}]}, ANSWER]}, "not text ('image_"),
        ({"messages": [USER | {"content": [7]}, ANSWER]}, "holds a part that is not text (7)"),
        ({"messages": [USER, ANSWER | {"reasoning_content": 1}]}, "reasoning_content is a number"),
        ({"messages": [RESULT, ANSWER]}, "turn 1 is from tool, expected user or system"),
        ({"messages": [USER, RESULT]}, "turn 2 is from tool, expected assistant"),
        ({"messages": '[{"role": "user"'}, "is not readable as JSON: the JSON breaks off"),
        ({"prompt": [USER, ANSWER], "completion": "a"}, "does not end with a question"),
        (
            {"prompt": [USER], "completion": "a", "history": [["x", "y"]]},
            'field "history": stands beside a prompt of turns',
        ),
        ({"prompt": ["q"], "completion": "a"}, "is a list (['q']), not text"),
    ],
)  # fmt: skip
def test_a_fault_is_named(tmp_path: Path, row: Row, expected: str) -> None:
    message = refused(tmp_path, row)
    assert expected in message and "rows.jsonl:1 row 1" in message


@pytest.mark.parametrize("name", ["image", "images", "video", "audios"])
@pytest.mark.parametrize(
    "value",
    ["../../etc/passwd", "file:///etc/passwd", ["http://169.254.169.254/"], [{"bytes": "x"}]],
)
def test_media_are_refused_and_never_opened(
    tmp_path: Path, name: str, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = {"messages": [USER, ANSWER], name: value}
    path = save(tmp_path, row)
    opened: list[Any] = []
    real = open
    monkeypatch.setattr("builtins.open", lambda *a, **k: opened.append(a[0]) or real(*a, **k))
    with pytest.raises(DataError, match="names media .*, which ftlab never opens"):
        read(path)
    assert opened == [path]
    assert one(tmp_path, row | {name: []})["messages"] == [USER, ANSWER]


def test_only_the_fields_that_were_named_count(tmp_path: Path) -> None:
    path = save(tmp_path, {"q": "one", "input": "two", "a": "three", "image": "x.png"})
    data = read(path, columns={"prompt": "q", "response": "a"})
    assert data[0]["messages"][0]["content"] == "one"
    assert data.reason == "alpaca: named 'q', 'a'; not used: 'input', 'image'"
    with pytest.raises(DataError, match="names media"):
        read(path, columns={"prompt": "q", "response": "a", "images": "image"})


@pytest.mark.parametrize(
    "columns, expected",
    [
        ({"prompt": "q", "query": "input"}, "name the answers too"),
        ({"response": "a"}, "name the prompt"),
        ({"query": "x"}, "name the prompt"),
        ({"messages": "m", "prompt": "q"}, "not both"),
        ({"messages": "m", "history": "h"}, "not both"),
        ({"prompt": "q", "rejected": "r"}, "name both answers"),
        ({"prompt": "q", "chosen": "r"}, "name both answers"),
        ({"prompt": "q", "response": "q"}, "a field of its own"),
        ({"prompt": "q", "kto_tag": "k"}, "name the answers too"),
    ],
)
def test_columns_that_would_give_no_rows_are_refused(
    tmp_path: Path, columns: dict[str, str], expected: str
) -> None:
    message = refused(tmp_path, {"q": "q"}, columns=columns)
    assert "give no rows" in message and expected in message


def test_tags_that_are_not_named_keep_their_words_and_named_ones_have_no_other(
    tmp_path: Path,
) -> None:
    row = {"messages": [SYSTEM, USER | {"role": "me"}, ANSWER, RESULT, ANSWER]}
    found = one(tmp_path, row, formatting="sharegpt", columns={"messages": "messages"},
                tags={"role_tag": "role", "content_tag": "content", "user_tag": "me"})  # fmt: skip
    assert [turn["role"] for turn in found["messages"]] == [
        "system", "user", "assistant", "tool", "assistant",
    ]  # fmt: skip
    row = {"messages": [USER, ANSWER]}
    assert "unknown role 'user'" in refused(tmp_path, row, tags={"user_tag": "me"})


def test_a_bad_row_among_ten_thousand_is_named(tmp_path: Path) -> None:
    rows: list[Row] = [{"messages": [USER, ANSWER]}] * 10_000
    rows[7_311] = {"messages": [USER, USER]}
    path = save(tmp_path, *rows)
    with pytest.raises(DataError, match=f"{path}:7312 row 7312 .*turn 2 is from user"):
        read(path)
    data = read(path, on_bad_row="skip")
    assert (len(data), data.rows_read) == (9_999, 10_000)
    assert isinstance(data.rejected[0], BadRow) and data.rejected[0].line == 7312


# What is written --------------------------------------------------------------------------------

LONG = [SYSTEM, USER, ANSWER, {"role": "user", "content": "第二\n问 🙂"}, WORSE]
USES_TOOLS = {"messages": [USER, CALLS, RESULT, ANSWER], "tools": [TOOL]}
TWO_CALLS = {"messages": [USER, CALLS | {"tool_calls": [CALL, CALL]}, RESULT, RESULT, ANSWER]}
WEIGHTED = {"messages": [USER, ANSWER | {"weight": 0}, USER, ANSWER]}
TALKED = {"prompt": LONG[:4], "chosen": [ANSWER], "rejected": [WORSE]}
SOME = {
    "talk": {"messages": LONG},
    "tools": USES_TOOLS,
    "calls": TWO_CALLS,
    "weight": WEIGHTED,
    "thought": {"messages": [USER, ANSWER | {"reasoning_content": "hm"}]},
    "pair": TALKED,
    "tool pair": {"prompt": [USER, CALLS, RESULT], "chosen": [ANSWER], "rejected": [CALLS]},
    "judged": {"prompt": LONG[:4], "completion": [ANSWER], "label": False},
    "text": {"text": "Two\nlines, \"one\" comma;\tand 中文."},
}  # fmt: skip
ALL = ["openai", "sharegpt", "swift", "alpaca", "prompt/completion", "query/response", "text"]
# What a format has no place for; text rows fit "text" only, which holds nothing else.
NO_PLACE = {("calls", "sharegpt"), ("tool pair", "query/response")} | {
    (name, form)
    for name in ("tools", "calls", "weight", "thought", "tool pair")
    for form in ("alpaca", "query/response")
}


def saved(folder: Path, row: Row, name: str, formatting: str) -> Data:
    data = Data([row | {"source": "here:1", "extra": {"topic": "x"}}] * 2)
    return read(data.save(folder / name, formatting), on_bad_row="stop")


@pytest.mark.parametrize("formatting", ALL)
@pytest.mark.parametrize("suffix", ["jsonl", "json", "parquet", "csv", "tsv", "jsonl.gz"])
@pytest.mark.parametrize("name", SOME)
def test_what_is_written_is_read_back(
    tmp_path: Path, name: str, suffix: str, formatting: str
) -> None:
    row = SOME[name]
    try:
        found = saved(tmp_path, row, f"rows.{suffix}", formatting)
    except DataError as error:
        flat = suffix in ("csv", "tsv") and "a cell of CSV cannot hold" in str(error)
        lacks = (name, formatting) in NO_PLACE or (name == "text") != (formatting == "text")
        assert flat or lacks, error
        assert "Fix: " in str(error)
    else:
        assert len(found) == 2 and found[0]["extra"] == {"topic": "x"}
        kept = {key: value for key, value in found[0].items() if key not in ("source", "extra")}
        assert kept == row
        assert found.kind == Data([row]).kind


def test_other_tools_know_what_is_written(tmp_path: Path) -> None:
    """LLaMA-Factory and ms-swift read these fields without being told."""
    data = Data([SOME["tools"]])
    files = {f: data.save(tmp_path / f"{f}.jsonl", f) for f in ("openai", "sharegpt", "swift")}
    rows = {form: json.loads(path.read_text("utf-8")) for form, path in files.items()}
    call = rows["openai"]["messages"][1]["tool_calls"][0]["function"]
    assert json.loads(call["arguments"]) == CALL["function"]["arguments"]
    assert [turn["from"] for turn in rows["sharegpt"]["conversations"]] == [
        "human", "function_call", "observation", "gpt",
    ]  # fmt: skip
    assert [turn["role"] for turn in rows["swift"]["messages"]] == [
        "user", "tool_call", "tool_response", "assistant",
    ]  # fmt: skip
    assert json.loads(rows["sharegpt"]["tools"]) == json.loads(rows["swift"]["tools"]) == [TOOL]
    Data([SOME["talk"]]).save(tmp_path / "talk.json", "alpaca")
    assert json.loads((tmp_path / "talk.json").read_text("utf-8")) == [
        {
            "instruction": "第二\n问 🙂",
            "input": "",
            "output": "b",
            "system": "s",
            "history": [["q", "a"]],
        }
    ]


def test_enough_is_written_to_csv(tmp_path: Path) -> None:
    """The table above must not pass by refusals alone."""
    for name in ("talk", "tools", "pair", "judged", "text"):
        form = "text" if name == "text" else "openai" if name == "tools" else "alpaca"
        assert len(saved(tmp_path, SOME[name], f"{name}.csv", form)) == 2


def test_a_file_is_not_overwritten_unasked_and_not_left_half(tmp_path: Path) -> None:
    data, path = Data([{"text": "a"}]), tmp_path / "rows.jsonl"
    assert data.save(path) == path
    with pytest.raises(DataError, match="the file exists"):
        Data([{"text": "b"}]).save(path)
    with pytest.raises(DataError, match="extra field|cannot be written"):
        Data([{"text": "b", "extra": {"when": object()}}]).save(path, overwrite=True)
    assert read(path)[0]["text"] == "a"
    Data([{"text": "b"}]).save(path, overwrite=True)
    assert read(path)[0]["text"] == "b" and [p.name for p in tmp_path.iterdir()] == ["rows.jsonl"]


@pytest.mark.parametrize(
    "row, name, formatting, expected",
    [
        ({"text": "a\nb"}, "rows.txt", "text", "one text a line, not line breaks"),
        ({"text": "a", "extra": {"n": 1}}, "rows.txt", "text", "not the field 'n'"),
        (TALK, "rows.jsonl", "latin", "'latin' cannot hold messages rows. Fix: one of"),
        (TALK, "rows.doc", "openai", "unknown file type"),
        (TALK | {"extra": {"output": "x"}}, "rows.json", "alpaca", "'output' has the name of"),
        (TALK | {"extra": {"label": True}}, "rows.json", "openai", "would be read as openai KTO"),
        (USES_TOOLS, "rows.json", "alpaca", "no tools"),
    ],
)
def test_what_cannot_be_written_is_said(
    tmp_path: Path, row: Row, name: str, formatting: str, expected: str
) -> None:
    with pytest.raises(DataError) as error:
        Data([row]).save(tmp_path / name, formatting)
    assert expected in str(error.value) and list(tmp_path.iterdir()) == []


def test_packed_files_are_the_same_bytes_each_time(tmp_path: Path) -> None:
    data = Data([{"text": "a"}] * 3)
    one, two = (data.save(tmp_path / name).read_bytes() for name in ("a.txt.gz", "b.txt.gz"))
    assert one == two and gzip.decompress(one) == b"a\na\na\n"


# Tables -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_a_table_may_be_separated_as_excel_does_it(tmp_path: Path, mark: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(f'\ufeffprompt{mark}response\r\nq{mark}"a, b; c\t"\r\n'.encode())
    assert read(path)[0]["messages"][1]["content"] == "a, b; c\t"


def test_a_long_cell_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(f"text\n{'x' * 300_000}\n")
    assert len(read(path)[0]["text"]) == 300_000


def test_files_of_arrow_are_read_whatever_type_arrow_gave_them(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"messages": [[USER, ANSWER | {"weight": 0}]] * 3, "n": [None, 1, 2]})
    pq.write_table(table, tmp_path / "rows.parquet")
    with (
        pa.OSFile(str(tmp_path / "rows.arrow"), "wb") as file,
        pa.ipc.new_stream(file, table.schema) as out,
    ):
        out.write_table(table)
    with (
        pa.OSFile(str(tmp_path / "file.arrow"), "wb") as file,
        pa.ipc.new_file(file, table.schema) as out,
    ):
        out.write_table(table)
    for name in ("rows.parquet", "rows.arrow", "file.arrow"):
        data = read(tmp_path / name)
        assert [row["source"] for row in data] == [f"{name}:{n}" for n in (1, 2, 3)]
        assert data[0]["messages"] == [USER, ANSWER | {"weight": 0}]
        assert [row["extra"]["n"] for row in data] == [None, 1, 2]


def test_a_table_of_arrow_with_a_column_twice_is_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(
        pa.Table.from_arrays([pa.array(["a"])] * 2, ["text", "text"]), tmp_path / "x.parquet"
    )
    with pytest.raises(DataError, match="a column name appears twice"):
        read(tmp_path / "x.parquet")
