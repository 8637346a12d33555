"""Reading data: every row is read as it is written, or refused with its place and a way out."""

from __future__ import annotations

import gzip
import json
import pickle
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import ftlab
from ftlab.data import Data, data_dir, read
from ftlab.errors import DataError

GOOD = {"instruction": "Where does Ada live?", "input": "", "output": "In Mill Lane."}
ANSWER = {"role": "assistant", "content": "hello"}


def save(folder: Path, content: Any, name: str = "rows.jsonl") -> Path:
    """Write bytes, text, or a list of rows (JSON lines; text among them is a raw line)."""
    if isinstance(content, list):
        lines = (row if isinstance(row, str) else json.dumps(row) for row in content)
        content = "\n".join(lines)
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(DataError) as refused:
        read(path, **options)
    return str(refused.value)


def talk(*turns: tuple[str, str]) -> dict[str, Any]:
    return {"conversations": [{"from": who, "value": text} for who, text in turns]}


def messages(*roles: str) -> list[dict[str, str]]:
    return [{"role": role, "content": "hello"} for role in roles]


# What is read ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "row, expected",
    [
        (GOOD, [("user", "Where does Ada live?"), ("assistant", "In Mill Lane.")]),
        (
            {"instruction": "Translate", "input": "cat", "output": "猫", "system": "Be brief."},
            [("system", "Be brief."), ("user", "Translate\ncat"), ("assistant", "猫")],
        ),
        (
            {"instruction": "", "input": "cat", "output": "a", "history": [["q", "b"]]},
            [("user", "q"), ("assistant", "b"), ("user", "cat"), ("assistant", "a")],
        ),
        ({"instruction": "q", "input": None, "output": "a"}, [("user", "q"), ("assistant", "a")]),
        ({"prompt": "q", "response": "a"}, [("user", "q"), ("assistant", "a")]),
        ({"prompt": "q", "completion": "a"}, [("user", "q"), ("assistant", "a")]),
        ({"question": "q", "answer": "a"}, [("user", "q"), ("assistant", "a")]),
        (
            talk(("system", "s"), ("human", "q"), ("gpt", "a")),
            [("system", "s"), ("user", "q"), ("assistant", "a")],
        ),
        (talk(("human", "q"), ("gpt", "a")) | {"system": "s"}, "system user assistant"),
        ({"messages": talk(("human", "q"), ("gpt", "a"))["conversations"]}, "user assistant"),
        ({"messages": messages("user", "assistant") * 2}, "user assistant user assistant"),
        ({"conversations": messages("system", "user", "assistant")}, "system user assistant"),
    ],
)
def test_a_format_is_known_by_its_content(tmp_path: Path, row: Any, expected: Any) -> None:
    found = read(save(tmp_path, [row]))[0]["messages"]
    if isinstance(expected, str):
        assert " ".join(turn["role"] for turn in found) == expected
    else:
        assert [(turn["role"], turn["content"]) for turn in found] == expected


def test_plain_text_rows_and_text_files_are_text(tmp_path: Path) -> None:
    rows = read(save(tmp_path, [{"text": "A page.", "language": "en"}]))
    assert rows == [{"text": "A page.", "source": "rows.jsonl:1", "extra": {"language": "en"}}]
    lines = read(save(tmp_path, "first\r\n\r\nsecond", "pages.txt"))
    assert [(row["text"], row["source"]) for row in lines] == [
        ("first", "pages.txt:1"),
        ("second", "pages.txt:3"),
    ]


def test_csv_rows_keep_their_lines_across_cells_with_line_breaks(tmp_path: Path) -> None:
    table = 'prompt,response\r\n"two\r\nlines",a\r\n\r\nq,"b, c"\r\n'
    rows = read(save(tmp_path, table, "rows.csv"))
    assert [row["source"] for row in rows] == ["rows.csv:2", "rows.csv:5"]
    assert rows[1]["messages"][1]["content"] == "b, c"


def test_columns_that_play_no_part_are_kept(tmp_path: Path) -> None:
    row = read(save(tmp_path, [GOOD | {"fact": "home", "n": 3}]))[0]
    assert row["extra"] == {"fact": "home", "n": 3}


def test_an_optional_field_may_be_missing_and_a_key_may_repeat_from_row_to_row(
    tmp_path: Path,
) -> None:
    half = {key: value for key, value in GOOD.items() if key != "input"}
    data = read(save(tmp_path, [GOOD | {"id": 7}, half | {"id": 7}, half | {"note": "x"}]))
    assert len(data) == 3 and data.reason.endswith("not used: 'id', 'note'")


def test_one_very_long_line_is_read_and_a_larger_file_than_the_limit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path, [GOOD | {"output": "long " * 2_000_000}])
    assert len(read(path)[0]["messages"][1]["content"]) == 10_000_000
    packed = save(tmp_path, gzip.compress(path.read_bytes()), "rows.jsonl.gz")
    monkeypatch.setattr(sys.modules["ftlab.data.read"], "LARGEST", 2**20)
    for file in (path, packed):  # a small packed file may hold very much
        assert "holds more than 1 MiB. Fix: split the file" in refusal(file)


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
@pytest.mark.parametrize("indent", [None, 2])
def test_arrays_and_lines_are_told_apart_by_content(
    tmp_path: Path, name: str, indent: int | None
) -> None:
    array = read(save(tmp_path, json.dumps([GOOD, GOOD], indent=indent), name))
    assert [row["source"] for row in array] == [
        f"{name}:{2 if indent else 1}",
        f"{name}:{7 if indent else 1}",
    ]
    assert len(read(save(tmp_path, [GOOD, GOOD], name))) == 2
    assert len(read(save(tmp_path, json.dumps(GOOD, indent=indent), name))) == 1


def test_lines_are_counted_through_blank_lines_crlf_and_a_missing_last_newline(
    tmp_path: Path,
) -> None:
    line = json.dumps(GOOD)
    rows = read(save(tmp_path, f"\r\n{line}\r\n\r\n   \r\n{line}"))
    assert [row["source"] for row in rows] == ["rows.jsonl:2", "rows.jsonl:5"]


@pytest.mark.parametrize(
    "text",
    [
        "👩‍👩‍👧‍👦 🏳️‍🌈 é e\u0301",
        "مرحبا بالعالم",
        "שלום",
        "你好，世界 𠮷",
        "a\u2028b\x85c",
        "{{name}} by {{author}}",
    ],
)
@pytest.mark.parametrize("escaped", [True, False])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_text_comes_back_as_it_was_written(
    tmp_path: Path, text: str, escaped: bool, mark: bytes
) -> None:
    line = json.dumps(GOOD | {"output": text}, ensure_ascii=escaped)
    row = read(save(tmp_path, mark + line.encode()))[0]
    assert row["messages"][1]["content"] == text


def test_the_order_of_rows_changes_nothing(tmp_path: Path) -> None:
    """Arrow gives a column the type of its first rows: the same rows in another order failed."""
    notes: list[Any] = [None, 1, "x", [], {"a": None}]
    rows = [GOOD | {"note": note} for note in notes]
    rows += [{"text": "a stranger"}, GOOD | {"output": 7}]
    found = []
    for _ in range(5):
        random.shuffle(rows)
        data = read(save(tmp_path, rows), on_bad_row="skip")
        found.append(sorted(json.dumps(row["extra"]) for row in data))
        assert len(data) == 5 and len(data.rejected) == 2
    assert all(extras == found[0] for extras in found)


# What is refused -------------------------------------------------------------------------------

BAD_ROWS = [
    ('{"instruction": "q", "output": "a"', ":3:35 row 3: the JSON breaks off"),
    ('{"instruction": "q", "output": "a', ":3:32 row 3: the JSON breaks off"),
    ('{"instruction": "q", "output": "a",}', ":3:3"),
    ("{'instruction': 'q'}", ":3:2 row 3: single quotes. Fix: JSON needs double quotes"),
    (json.dumps(GOOD) * 2, "more text after the end of the JSON value"),
    ('{"instruction": "a\tb", "output": "a"}', ":3:19 row 3: a tab or line break"),
    ('{"instruction": "q", "output": NaN}', "row 3: NaN is not a JSON number"),
    ('{"instruction": "q", "output": -Infinity}', "row 3: -Infinity is not a JSON number"),
    ('{"instruction": "q", "output": 1e400}', "a number is too large"),
    ('{"instruction": "q", "output": %s}' % ("9" * 5000), "too many digits"),
    ('{"instruction": "q", "output": "a", "output": ""}', 'field "output": the key appears twice'),
    ('{"instruction": "q", "output": "a \\ud83d"}', "row 3: half a character"),
    ("[" * 100_000, "row 3: nested too deeply"),
    ("[1, 2]", "row 3: is a list ([1, 2]), not an object"),
    ("7", "row 3: is a number (7), not an object"),
    ('"text"', "row 3: is text ('text'), not an object"),
    ("null", "row 3: is null, not an object"),
    ({"instruction": "q"}, 'field "output": is missing'),
    ({"instruction": "q", "Output": "a"}, "rename 'Output' to 'output'"),
    ({"instruction": "q", "output ": "a"}, "rename 'output ' to 'output'"),
    (
        {"instruction": "q", "response": "a"},
        "columns={'prompt': 'instruction', 'response': 'response'}",
    ),
    ({"instrution": "q", "output": "a"}, "rename 'instrution' to 'instruction'"),
    (GOOD | {"output": None}, 'row 3 field "output": is null, not text'),
    (GOOD | {"output": ""}, 'row 3 field "output": is empty'),
    (GOOD | {"output": " \n\u3000\u00a0"}, "only blanks or invisible characters"),
    (GOOD | {"output": "\u200b\ufeff"}, "only blanks or invisible characters"),
    (GOOD | {"output": 42}, 'field "output": is a number (42), not text'),
    (GOOD | {"output": True}, "is a boolean (True), not text"),
    (GOOD | {"output": {"a": 1}}, "is an object ({'a': 1}), not text. Fix: write it as text"),
    (GOOD | {"output": ["a"]}, "is a list (['a']), not text"),
    (GOOD | {"output": "a\0b"}, "holds a NUL character"),
    (GOOD | {"instruction": ""}, 'field "instruction": is empty'),
    (GOOD | {"input": 3}, 'field "input": is a number (3)'),
    (GOOD | {"history": [["q", "a", "b"]]}, 'field "history": pair 1 is a list'),
    (GOOD | {"history": "q"}, 'field "history": pair 1 is text'),
    (GOOD | {"history": [["q", None]]}, 'field "history": pair 1 is null'),
    (talk(("human", "q"), ("gpt", "a")), "the row is sharegpt, but rows.jsonl:1 is alpaca"),
    ({"text": "a page"}, "the row is text, but rows.jsonl:1 is alpaca"),
]


@pytest.mark.parametrize("row, expected", BAD_ROWS)
def test_a_bad_row_is_refused_with_its_place(tmp_path: Path, row: Any, expected: str) -> None:
    path = save(tmp_path, [GOOD, GOOD, row, GOOD, GOOD])
    message = refusal(path)
    assert message.startswith(f"{path}:3") and expected in message and "Fix: " in message
    data = read(path, on_bad_row="skip")
    assert (len(data), len(data.rejected), data.rows_read) == (4, 1, 5)
    assert str(data.rejected[0]) in message and data.rejected[0].line == 3


@pytest.mark.parametrize(
    "row, expected",
    [
        ([], "is an empty list"),
        ("hello", "is text ('hello'), not a list of turns"),
        (messages("assistant", "user", "assistant"), "turn 1 is from assistant, expected user or"),
        (messages("user", "user", "assistant"), "turn 2 is from user, expected assistant"),
        (messages("user", "assistant", "user"), "the last turn is not an answer"),
        (messages("user", "system", "assistant"), "turn 2 is from system, expected assistant"),
        (messages("system", "system", "user"), "turn 2 is from system, expected user"),
        (
            messages("user", "bot"),
            "turn 2 has the unknown role 'bot'; known are user, human, assistant, gpt",
        ),
        (messages("user") + [{"role": "assistant"}], 'turn 2 has no "content"'),
        (messages("user") + [{"content": "a"}], 'turn 2 has no "role"'),
        (messages("user") + [{"role": ["assistant"], "content": "a"}], "the unknown role ["),
        (messages("user") + ["hello"], "turn 2 is text ('hello'), not an object"),
        (messages("user") + [ANSWER | {"content": None}], "turn 2 is null, not text"),
        (messages("user") + [ANSWER | {"content": " "}], "turn 2 holds only blanks"),
        (messages("user") + [ANSWER | {"tool_calls": [1]}], "turn 2 calls no tool by name: 1"),
    ],
)
def test_a_bad_turn_is_refused_with_its_number(tmp_path: Path, row: Any, expected: str) -> None:
    good = {"messages": messages("user", "assistant")}
    message = refusal(save(tmp_path, [good, {"messages": row}, good]))
    assert ":2 row 2 " in message and expected in message and 'field "messages"' in message


@pytest.mark.parametrize(
    "content, name, expected",
    [
        (b"", "rows.json", "the file is empty"),
        (b"\xef\xbb\xbf", "rows.json", "the file is empty"),
        (b" \n\r\n\t", "rows.jsonl", "the file has only blanks"),
        (b"[]", "rows.json", "the file has no rows"),
        (b"[\n]\n", "rows.json", "the file has no rows"),
        (b"prompt,response\n", "rows.csv", "the file has no rows"),
        (b'[{"text": "a"},\n {"text": "b"', "rows.json", ":2:14: the JSON breaks off"),
        (b'[{"text": "a"},\n', "rows.json", ":2:1"),
        (b'[{"text": "a"},\n]', "rows.json", ":2:1: a comma after the last item"),
        (b'[{"text": "a"}\n {"text": "b"}]', "rows.json", ":2:2: not valid JSON"),
        (b'[{"text": "a"}] x', "rows.json", ":1:17: more text after the end"),
        (b"[\n{'text': 'a'}]", "rows.json", ":2:2: single quotes"),
        (b"[" * 100_000, "rows.json", "nested too deeply"),
        (b'{\n "text": "a",\n "extra": oops\n}', "rows.json", ":3:11: not valid JSON"),
        ('{"text": "a"}'.encode("utf-16"), "rows.jsonl", "UTF-16"),
        ('{"text": "a"}'.encode("utf-16-le"), "rows.jsonl", "UTF-16"),
        ('{"text": "a"}\n{"text": "你好"}'.encode("gbk"), "rows.jsonl", ":2: byte 24 is not UTF-8"),
        (b"q" + "你好".encode("gbk"), "rows.txt", '"gb18030"'),
        (b"a,a\n1,2", "rows.csv", ":1: a column name appears twice"),
        (b'prompt,response\nq,"a', "rows.csv", ":2: unexpected end of data"),
        (b"prompt,response\nq,a,b", "rows.csv", ":2 row 1: cells do not match the header"),
        (b"prompt,response\nq", "rows.csv", ":2 row 1: cells do not match the header"),
        (b"PAR1", "rows.parquet", "not readable (Parquet"),
        (b"x", "rows.xlsx", "unknown file type. Fix: ftlab knows .json"),
        (b"x", "rows.jsonl.gz", "not a whole gzip file (Not a gzipped file"),
        (gzip.compress(b'{"text": "a"}', mtime=0)[:-4], "rows.json.gz", "not a whole gzip file"),
        (b"{}", "rows.json", "no known format; found []"),
        (b'{"Instruction": "q", "Output": "a"}', "rows.json", "rename 'Output' to 'output'"),
        (b'{"data": [{"text": "a"}]}', "rows.json", "no known format; found ['data']"),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, content: bytes, name: str, expected: str) -> None:
    path = save(tmp_path, content, name)
    message = refusal(path)
    assert message.startswith(str(path)) and expected in message and "Fix: " in message


@pytest.mark.parametrize("encoding", ["gb18030", "utf-16", "big5", "shift-jis"])
def test_the_advice_for_other_encodings_works(tmp_path: Path, encoding: str) -> None:
    path = save(tmp_path, '{"text": "中文"}\r\n{"text": "b"}'.encode(encoding))
    assert "encoding=" in refusal(path)
    rows = read(path, encoding=encoding)
    assert [row["text"] for row in rows] == ["中文", "b"]
    assert rows.origin is None  # a saved recipe could not say it


@pytest.mark.parametrize("encoding", ["nonsense", "hex", "utf-8\0"])
def test_an_unknown_encoding_is_refused(tmp_path: Path, encoding: str) -> None:
    assert "is no text encoding" in refusal(save(tmp_path, [GOOD]), encoding=encoding)


def test_a_wrong_encoding_is_refused_with_its_place(tmp_path: Path) -> None:
    path = save(tmp_path, '{"text": "a"}\n{"text": "中"}'.encode())
    assert ":2: byte 24 is not ASCII" in refusal(path, encoding="ascii")


def test_rows_of_an_array_are_refused_one_by_one(tmp_path: Path) -> None:
    rows = '[\n{"text": "a"},\n{"text": NaN},\n{"text": 1,\n "text": 2}, 3,\n{"text": "b"}\n]'
    data = read(save(tmp_path, rows, "rows.json"), on_bad_row="skip")
    assert [row["source"] for row in data] == ["rows.json:2", "rows.json:6"]
    assert [(bad.line, bad.row) for bad in data.rejected] == [(3, 2), (4, 3), (5, 4)]


def test_the_message_counts_the_bad_rows_and_skip_needs_a_good_one(tmp_path: Path) -> None:
    path = save(tmp_path, [GOOD, {"instruction": "q"}, GOOD, GOOD | {"output": ""}])
    assert "Of 4 rows 2 cannot be used; on_bad_row=" in refusal(path)
    path = save(tmp_path, [{"instruction": "q"}, {"instruction": "q"}])
    message = refusal(path, on_bad_row="skip")
    assert "Of 2 rows 2 cannot be used." in message


def test_a_message_never_carries_control_characters_of_the_file(tmp_path: Path) -> None:
    message = refusal(save(tmp_path, [{"\x1b[31m": "\ud83d"}, {"instruction": "\x1b[31m"}]))
    assert message.isprintable()


# Names, folders, options -----------------------------------------------------------------------


def registry(folder: Path, **entries: Any) -> Path:
    save(folder, json.dumps(entries), "dataset_info.json")
    return folder


def test_a_name_is_looked_up_in_dataset_info(tmp_path: Path) -> None:
    save(tmp_path, [{"q": "hello", "a": "hi", "output": "other"}], "pairs.jsonl")
    save(tmp_path, [{"body": "A page."}], "pages.jsonl")
    pairs = {"file_name": "pairs.jsonl", "columns": {"prompt": "q", "response": "a"}}
    pages = {"file_name": "pages.jsonl", "columns": {"prompt": "body"}}
    folder = registry(tmp_path, pairs=pairs, pages=pages)
    data = read("pairs", dataset_dir=folder)
    assert data.name == "pairs" and data.paths == [folder / "pairs.jsonl"]
    assert data[0]["messages"][1]["content"] == "hi" and data[0]["extra"] == {"output": "other"}
    assert read("pages", dataset_dir=folder)[0]["text"] == "A page."
    assert len(read("pairs, pairs", dataset_dir=folder)) == 2
    with pytest.raises(DataError, match="is plain text and .* is a conversation"):
        read("pairs,pages", dataset_dir=folder)


def test_what_the_owner_says_wins_over_the_content(tmp_path: Path) -> None:
    path = save(tmp_path, [{"prompt": "p", "response": "r", "text": "t", "other": "o"}])
    assert read(path, columns={"prompt": "text"})[0]["text"] == "t"
    data = read(path, columns={"prompt": "text", "response": "other"})
    assert [turn["content"] for turn in data[0]["messages"]] == ["t", "o"]
    assert 'field "instruction": is missing' in refusal(path, formatting="alpaca")


def test_tags_and_a_messages_column_name_the_turns(tmp_path: Path) -> None:
    turns = [{"who": "me", "says": "q"}, {"who": "it", "says": "a"}]
    tags = {"role_tag": "who", "content_tag": "says", "user_tag": "me", "assistant_tag": "it"}
    options: Any = {"formatting": "sharegpt", "columns": {"messages": "dialog"}, "tags": tags}
    path = save(tmp_path, [{"dialog": turns}], "talks.jsonl")
    folder = registry(tmp_path, talks={"file_name": "talks.jsonl", **options})
    for data in (read(path, **options), read("talks", dataset_dir=folder)):
        assert [turn["role"] for turn in data[0]["messages"]] == ["user", "assistant"]
    path = save(tmp_path, [{"dialog": messages("user", "assistant")}])
    assert len(read(path, columns={"messages": "dialog"})) == 1


@pytest.mark.parametrize(
    "entry, expected",
    [
        (
            {"file_name": "x.json", "format": "alpaca"},
            "unknown key 'format'. Fix: write 'formatting'",
        ),
        ({"file_name": "x.json", "formatting": "sharegtp"}, "write 'sharegpt'"),
        ({"file_name": "x.json", "columns": {"promt": "q"}}, "write 'prompt'"),
        ({"file_name": "x.json", "columns": ["prompt"]}, "does not map names"),
        ({"file_name": "x.json", "tags": {"role": "from"}}, "unknown key 'role'"),
        ({"file_name": "x.json", "formatting": "alpaca", "tags": {"role_tag": "r"}}, "no turns"),
        ({"file_name": "x.json", "columns": {"chosen": "c"}}, "name both answers"),
        ({"file_name": "x.json", "num_samples": 0}, "num_samples=0"),
        ({"hf_hub_url": "a/b"}, "the rows are on a hub (hf:a/b). Fix: pass online=True"),
        ({"formatting": "alpaca"}, "names no file"),
        ("x.json", "names no file"),
    ],
)
def test_a_faulty_entry_of_dataset_info_is_refused(
    tmp_path: Path, entry: Any, expected: str
) -> None:
    with pytest.raises(DataError) as refused:
        read("mine", dataset_dir=registry(tmp_path, mine=entry))
    assert expected in str(refused.value)


def test_a_faulty_dataset_info_is_refused_with_its_place(tmp_path: Path) -> None:
    for content in ('{\n "a": {},\n "a": {}\n}', "[1]", '{\n "a": 1,\n}', "{'a': 1}"):
        save(tmp_path, content, "dataset_info.json")
        with pytest.raises(DataError, match="dataset_info.json"):
            read("a", dataset_dir=tmp_path)


def test_an_unknown_name_gets_the_nearest_one(tmp_path: Path) -> None:
    path = save(tmp_path, [GOOD], "recipes.jsonl")
    folder = registry(tmp_path, world_qa={"file_name": "recipes.jsonl"})
    missing = str(tmp_path / "recipe.jsonl")
    for wrong, near in [("wrold_qa", "world_qa"), (missing, "recipes.jsonl")]:
        with pytest.raises(DataError, match=f"did you mean '{near}'"):
            read(wrong, dataset_dir=folder)
    for strange in ("", ",", "x" * 5000, "nul\0", "a, "):
        with pytest.raises(DataError, match="no such dataset or file"):
            read(strange, dataset_dir=folder)
    assert len(read("recipes.jsonl", dataset_dir=folder)) == len(read(path)) == 1


def test_a_folder_is_read_in_order_of_names(tmp_path: Path) -> None:
    folder = tmp_path / "all"
    folder.mkdir()
    assert "the folder has no files" in refusal(folder)
    for name, row in [("b.jsonl", GOOD), ("a.json", GOOD | {"n": 1}), (".hidden", GOOD)]:
        save(folder, [row], name)
    assert [row["source"] for row in read(folder)] == ["a.json:1", "b.jsonl:1"]
    save(folder, [{"text": "a page"}], "c.jsonl")
    assert "c.jsonl:1 row 1: the row is text, but a.json:1 is alpaca" in refusal(folder)


def test_a_link_out_of_a_folder_is_not_followed(tmp_path: Path) -> None:
    secret, folder = save(tmp_path, "secret", "secret.txt"), tmp_path / "downloaded"
    folder.mkdir()
    (folder / "rows.txt").symlink_to(secret)
    assert "the link leaves its folder" in refusal(folder)


def test_samples_are_the_first_rows_or_a_fixed_draw(tmp_path: Path) -> None:
    path = save(tmp_path, [GOOD | {"n": n} for n in range(10)])
    data = read(path, max_samples=3)
    assert [row["extra"]["n"] for row in data] == [0, 1, 2] and data.rows_read == 3
    for count in (4, 25):
        folder = registry(tmp_path, some={"file_name": path.name, "num_samples": count})
        data = read("some", dataset_dir=folder)
        assert len(data) == count and data == read("some", dataset_dir=folder)
        assert len({row["source"] for row in data}) == min(count, 10)


@pytest.mark.parametrize("options", [{"on_bad_row": "drop"}, {"max_samples": 0}])
def test_a_faulty_option_is_refused(tmp_path: Path, options: Any) -> None:
    assert next(iter(options)) in refusal(save(tmp_path, [GOOD]), **options)


# Data ------------------------------------------------------------------------------------------


def some_rows(count: int) -> Data:
    return Data({"text": str(n), "source": f"rows.txt:{n}", "extra": {}} for n in range(count))


def test_a_split_is_fixed_by_its_seed_and_loses_no_row() -> None:
    data = some_rows(50)
    train, held_out = data.split(0.2)
    assert (train, held_out) == data.split(10, seed=42) and len(held_out) == 10
    assert sorted(train + held_out, key=data.index) == data
    assert held_out != data.split(10, seed=1)[1]
    assert held_out.rows_read == 10 and held_out.rejected == []


@pytest.mark.parametrize("size", [0, 0.001, 50, 51, -1, -0.5])
def test_a_split_with_an_empty_side_is_refused(size: float) -> None:
    with pytest.raises(DataError, match="leaves one side empty"):
        some_rows(50).split(size)


def test_take_and_where_give_data_that_is_not_empty() -> None:
    data = some_rows(5)
    assert len(data.take(2)) == 2 and len(data.take(9)) == 5
    assert [row["text"] for row in data.where(lambda row: int(row["text"]) % 2)] == ["1", "3"]
    for empty in (lambda: data.take(0), lambda: data.take(-1), lambda: data.where(lambda _: 0)):
        with pytest.raises(DataError, match="leaves no row of 5"):
            empty()


def test_the_notebook_view_is_short_and_escaped() -> None:
    row = {"messages": [{"role": "user", "content": "<script>"}], "source": "<b>:1", "extra": {}}
    data = Data([row] * 100, name="<i>")
    html = data._repr_html_()
    assert repr(data) == "Data('<i>': 100 rows, 0 rejected)"
    assert html.count("<tr>") == 5
    assert not any(tag in html for tag in ("<script>", "<b>", "<i>"))


def test_data_survives_pickling(tmp_path: Path) -> None:
    data = read(save(tmp_path, [GOOD, "oops"]), on_bad_row="skip")
    again = pickle.loads(pickle.dumps(data))
    assert again == data and again.rejected == data.rejected and again.rows_read == 2


# The whole -------------------------------------------------------------------------------------


def test_the_shipped_datasets_are_read() -> None:
    for name in json.loads((data_dir() / "dataset_info.json").read_text("utf-8")):
        data = ftlab.read(name, on_bad_row="skip")
        assert len(data) > 0 and (name == "messy") == bool(data.rejected)


def test_reading_needs_no_torch() -> None:
    code = "import sys, ftlab; ftlab.read; assert not {'torch', 'pyarrow'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl", "rows.csv", "rows.txt"])
def test_only_data_errors_escape_from_damaged_files(tmp_path: Path, name: str) -> None:
    chance = random.Random(name)
    rows = [GOOD | {"history": [["é", "\ud83d"]]}, talk(("human", "q"), ("gpt", "a"))]
    seeds = [json.dumps(rows), "\n".join(map(json.dumps, rows)), 'prompt,response\n"q",a\n']
    tokens = [b'"', b"{", b"}", b"[", b",", b"\n", b"\xff", b"\0", b"null", b"1e999", b"\\ud800"]
    for _ in range(150):
        content = bytearray(chance.choice(seeds).encode())
        for _ in range(chance.randint(1, 6)):
            start = chance.randrange(len(content) + 1)
            end = start + chance.choice([0, 0, 1, 20])
            content[start:end] = chance.choice([*tokens, b""])
        path = save(tmp_path, bytes(content), name)
        try:
            data = read(path, on_bad_row="skip")
            assert data.rows_read == len(data) + len(data.rejected)
        except DataError as error:
            assert "Fix: " in str(error) and str(path) in str(error)
