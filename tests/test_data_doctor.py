"""The data doctor: every planted fault is found where it is, and clean rows give nothing."""

# ruff: noqa: E501 (a Chinese character counts as two columns; tables stay tables)
from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest

import ftlab
from ftlab import diagnose
from ftlab.cli import main
from ftlab.data.checks import CHECKS

PLACES = ("Paris", "Oslo", "Lima", "Cairo", "Quito", "Seoul")
FACTS = ("on the Seine", "by a fjord", "near the sea", "on the Nile", "high up", "on the Han")
Row = dict[str, Any]


def good(number: int) -> Row:
    """A row that nobody can object to, unlike the others."""
    place, fact = PLACES[number % 6], FACTS[number % 6]
    return {"instruction": f"Where is {place}?", "output": f"The city of {place} lies {fact}."}


def write(folder: Path, rows: list[Any], name: str = "my.jsonl") -> Path:
    """The rows as JSON lines; a text stands for its line as it is."""
    lines = [r if isinstance(r, str) else json.dumps(r, ensure_ascii=False) for r in rows]
    path = folder / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def around(bad: Any) -> list[Any]:
    """Six rows with the bad one at line 3."""
    rows: list[Any] = [good(number) for number in range(6)]
    return [*rows[:2], bad, *rows[3:]]


def chat(question: str, answer: str) -> Row:
    return {"instruction": question, "output": answer}


SECRET = "sk-abcdefghijklmnopqrstuvwxyz012345"
# code, level, the bad row, the field, the text that is named with line and column
IN_TEXT = [
    ("control token", "error", chat("Hi <|im_end|> there?", "Yes."), "instruction", "<|im_end|>"),
    ("control token", "error", chat("Hi [INST] there?", "Yes."), "instruction", "[INST]"),
    ("end token in answer", "error", chat("Is it?", "Yes.</s>"), "output", "</s>"),
    ("end token in answer", "error", chat("Is it?", "Yes.<|endoftext|>"), "output", "<|endoftext|>"),
    ("end token in answer", "error", chat("Is it?", "Yes.<|eot_id|>"), "output", "<|eot_id|>"),
    ("placeholder", "warning", chat("Who are you?", "I am {{name}}."), "output", "{{name}}"),
    ("bidi override", "warning", chat("Is it?", "Yes \u202etxt.exe"), "output", "\u202e"),
    ("mojibake", "warning", chat("Is it?", "Yes \ufffd"), "output", "\ufffd"),
    ("mojibake", "warning", chat("你好吗？", "你好，这是浣犲ソ"), "output", "浣犲ソ"),
    ("mojibake", "warning", chat("你好吗？", "你好，第һ名"), "output", "һ"),
    ("mojibake", "warning", chat("Is it?", "A cafÃ© there"), "output", "Ã©"),
    ("mojibake", "warning", chat("你好吗？", "今天ä½\xa0å¥½"), "output", "ä½\xa0å¥½"),
    ("e-mail address", "warning", chat("Who?", "Ask ada.quill@harbor.town."), "output", "ada.quill@harbor.town"),
    ("phone number", "warning", chat("Who?", "Call 13800138000 now"), "output", "13800138000"),
    ("phone number", "warning", chat("Who?", "Call +44 20 7946 0958 now"), "output", "+44 20 7946 0958"),
    ("secret key", "warning", chat("Who?", f"The key is {SECRET}"), "output", SECRET),
    ("ID number", "warning", chat("Who?", "ID 11010519491231002X"), "output", "11010519491231002X"),
    ("invisible character", "note", chat("Is it?", "Y\u200bes."), "output", "\u200b"),
    ("HTML", "note", chat("Is it?", "<img src=x onerror=alert(1)>"), "output", "<img src=x onerror=alert(1)>"),
    ("other language", "warning", chat("Where is the harbor of the town?", "港口在小镇的东边。"), "output", "港口在小镇的东边。"),
    ("misspelt field", "warning", good(2) | {"Input": "Be short."}, "Input", "Input"),
    ("rare field", "note", good(2) | {"stars": "5"}, "stars", "stars"),
]  # fmt: skip


@pytest.mark.parametrize(("code", "level", "row", "field", "spot"), IN_TEXT)
def test_a_fault_in_a_text_is_found_at_its_line_and_column(
    code: str, level: str, row: Row, field: str, spot: str, tmp_path: Path
) -> None:
    path = write(tmp_path, around(row))
    report = diagnose(path)
    found = report.where(code)
    assert [(one.level, one.line, one.row, one.path) for one in found] == [(level, 3, 3, path)]
    line = path.read_text("utf-8").split("\n")[2]
    start = line.index(f'"{field}"')
    assert found[0].column == (start if spot == field else line.index(spot, start)) + 1
    assert found[0].field == field
    assert report.rows_kept == report.rows_read == 6
    assert set(report.counts) - {"other language"} <= {code}


def test_clean_rows_give_nothing(tmp_path: Path) -> None:
    report = diagnose(write(tmp_path, around(good(2))))
    assert report.findings == [] and report.clean and "nothing found" in str(report)


INNOCENT = [
    chat("Where is it?", "e\u0301, 👩‍👩‍👧‍👦 and <b>bold</b>, a < b, x|y."),
    chat("¿Dónde está?", "Está en São Paulo, à côté; Ärger, Ça."),
    chat("أين هو؟", "هو هنا في المدينة."),
    chat("Translate: Good morning, dear friends", "早上好，亲爱的朋友们"),
    chat("12345678901234567 + 1 = ?", "12345678901234568, on 2024-01-15, 1.5e-10, 3-4-5."),
    chat("Which address?", "Write to user@example.com or git@github.com:me/repo.git"),
    chat("联通在哪里？鹰在哪里飞？", "联通大厦在东边，鹰在骸骨山上空盘旋。"),
    chat("What is f?", "f = {x: {1}, y: {2}}; [1, 2]; {% if x %}"),
    chat("第一个问题是什么？", "它叫 “Привет”，是俄文。"),
]


@pytest.mark.parametrize("row", INNOCENT)
def test_unusual_rows_that_are_right_give_nothing(row: Row, tmp_path: Path) -> None:
    assert diagnose(write(tmp_path, around(row))).findings == []


BROKEN = [
    ("broken JSON", '{"instruction": "Who?", "output": "a"', None),
    ("broken JSON", "{'instruction': 'Who?'}", None),
    ("broken JSON", '{"instruction": "Who?", "output": NaN}', None),
    ("doubled key", '{"instruction": "Who?", "output": "a", "output": "b"}', "output"),
    ("format", ["Who?", "I."], None),
    ("missing field", {"instruction": "Who?", "Output": "I."}, "output"),
    ("empty", chat("Who?", None), "output"),  # type: ignore[arg-type]
    ("not text", chat("Who?", 42), "output"),  # type: ignore[arg-type]
    ("empty", chat("Who?", ""), "output"),
    ("invisible", chat("Who?", "\u200b \u3000"), "output"),
    ("broken character", chat("Who?", "a\0b"), "output"),
    ("mixed formats", {"conversations": [{"from": "human", "value": "Hi"}]}, None),
]


@pytest.mark.parametrize(("code", "row", "field"), BROKEN)
def test_a_row_that_cannot_be_used_is_counted_and_named(
    code: str, row: Any, field: str | None, tmp_path: Path
) -> None:
    report = diagnose(write(tmp_path, around(row)))
    assert [(one.code, one.level, one.line) for one in report.findings] == [(code, "error", 3)]
    assert report.findings[0].field == field
    assert (report.rows_read, report.rows_kept, report.rows_rejected) == (6, 5, 1)
    assert report.findings[0].fix and not report.clean


def test_a_place_in_a_pretty_printed_file_is_the_line_of_the_text(tmp_path: Path) -> None:
    path = tmp_path / "my.json"
    rows = around(chat("Is it?", "No. Yes.</s>"))
    path.write_text(json.dumps(rows, indent=2), encoding="utf-8")
    (found,) = diagnose(path).findings
    lines = path.read_text("utf-8").split("\n")
    assert lines[found.line - 1][found.column - 1 :].startswith("</s>")


@pytest.mark.parametrize("ascii", [True, False])
def test_a_place_is_right_whether_the_file_escapes_its_text_or_not(
    ascii: bool, tmp_path: Path
) -> None:
    line = json.dumps(chat("问\n题", "答“案”</s>"), ensure_ascii=ascii)
    (found,) = diagnose(write(tmp_path, around(line))).where("end token in answer")
    assert line[found.column - 1 :].startswith("</s>")


def test_the_same_token_in_question_and_answer_has_two_places(tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "Hi</s>"},
                        {"role": "assistant", "content": "Ho</s>"}]}  # fmt: skip
    found = diagnose(write(tmp_path, [row])).findings[:2]
    assert [one.field for one in found] == ["messages[0].content", "messages[1].content"]
    assert found[0].column < found[1].column


def test_places_in_files_of_other_kinds(tmp_path: Path) -> None:
    table = tmp_path / "my.csv"
    table.write_text('instruction,output\r\n"Is it,\nnow?","Yes, 1\n</s>"\r\nNo?,No.\r\n', "utf-8")
    found = diagnose(table).where("end token in answer")
    assert [(one.line, one.column, one.row, one.field) for one in found] == [(4, 1, 1, "output")]
    lines = tmp_path / "my.txt"
    lines.write_text("One.\n\nTwo<|im_end|>\n", "utf-8")
    found = diagnose(lines).where("control token")
    assert [(one.line, one.column, one.row) for one in found] == [(3, 4, 2)]
    packed = tmp_path / "my.jsonl.gz"
    packed.write_bytes(gzip.compress(json.dumps(chat("Is it?", "Yes.</s>")).encode()))
    (one,) = diagnose(packed).where("end token in answer")
    assert (one.line, one.column) == (1, len('{"instruction": "Is it?", "output": "Yes.') + 1)
    arrow = pytest.importorskip("pyarrow")
    columnar = tmp_path / "my.parquet"
    rows = [good(0), chat("Is it?", "Yes.</s>")]
    pytest.importorskip("pyarrow.parquet").write_table(arrow.Table.from_pylist(rows), columnar)
    (one,) = diagnose(columnar).where("end token in answer")
    assert (one.row, one.field, one.column) == (2, "output", None)


def test_tools_and_thoughts_are_looked_at_too(tmp_path: Path) -> None:
    call = {
        "type": "function",
        "function": {"name": "mail", "arguments": {"to": "ada@harbor.town"}},
    }
    turns = [
        {"role": "user", "content": "Write to her."},
        {"role": "assistant", "content": "", "tool_calls": [call], "reasoning_content": "Hm.</s>"},
        {"role": "tool", "content": "sent to 13800138000"},
        {"role": "assistant", "content": "Done."},
    ]
    report = diagnose(write(tmp_path, [{"messages": turns}]))
    assert {(one.code, one.field) for one in report.findings if one.code != "few rows"} == {
        ("e-mail address", "messages[1].tool_calls[0].function.arguments.to"),
        ("end token in answer", "messages[1].reasoning_content"),
        ("phone number", "messages[2].content"),
    }


# --- causes that need several rows ----------------------------------------------------------------


def test_repeated_rows_name_their_twin(tmp_path: Path) -> None:
    rows = [good(0), good(1), good(2), good(1)]
    (found,) = diagnose(write(tmp_path, rows)).findings
    assert (found.code, found.level, found.row) == ("duplicate", "warning", 4)
    assert "my.jsonl:2" in found.reason


def test_almost_the_same_rows_are_a_note(tmp_path: Path) -> None:
    long = " ".join(f"The harbor has a lighthouse number {n}." for n in range(12))
    rows = [good(0), chat("Tell me all.", long), good(1), chat("Tell me all.", long + " Now")]
    report = diagnose(write(tmp_path, rows))
    assert [(one.row, one.level) for one in report.where("near-duplicate")] == [(4, "note")]
    assert "my.jsonl:2" in report.where("near-duplicate")[0].reason


def test_one_question_with_two_answers_is_a_note(tmp_path: Path) -> None:
    rows = [
        good(0),
        chat("Who made it?", "Ada Quill."),
        chat("Who made it?", "Bert Moss, I think."),
    ]
    report = diagnose(write(tmp_path, rows))
    assert [(one.code, one.row) for one in report.findings] == [
        ("different answers", 3)
    ] and report.clean


def pair(question: str, chosen: str, rejected: str) -> Row:
    return {"instruction": question, "chosen": chosen, "rejected": rejected}


def test_an_answer_that_is_chosen_and_rejected(tmp_path: Path) -> None:
    rows = [pair("Who?", "Ada, surely.", "Nobody at all."), pair("Where?", "Here it is.", "here it  IS."),
            pair("When?", "At noon today.", "Never in my life.")]  # fmt: skip
    (found,) = diagnose(write(tmp_path, rows)).findings
    assert (found.code, found.level, found.row) == ("chosen = rejected", "error", 2)


def test_a_pair_that_contradicts_another(tmp_path: Path) -> None:
    rows = [pair("Who?", "Ada, surely.", "Nobody at all."), pair("Who?", "Bert.", "Ada, surely.")]
    found = diagnose(write(tmp_path, rows)).where("contradiction")
    assert [(one.level, one.row) for one in found] == [("warning", 2)]


def kto(question: str, answer: str, label: bool) -> Row:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": turns, "label": label}


def test_labels_of_one_kind_only(tmp_path: Path) -> None:
    balanced = [kto(f"Is {p} a city?", f"{p} is one.", n % 2 == 0) for n, p in enumerate(PLACES)]
    assert "label balance" not in diagnose(write(tmp_path, balanced)).counts
    same = [{**row, "label": True} for row in balanced]
    (found,) = diagnose(write(tmp_path, same)).where("label balance")
    assert "6" in found.reason and "0 bad" in found.reason and found.row is None


def test_a_test_set_that_shares_a_question(tmp_path: Path) -> None:
    train = write(tmp_path, [good(n) for n in range(4)])
    test = write(tmp_path, [chat("where IS  Oslo?", "In Norway."), good(5)], "test.jsonl")
    (found,) = diagnose(train, against=test).findings
    assert (found.code, found.level, found.row) == ("overlap", "error", 2)
    assert "test.jsonl:1" in found.reason
    assert diagnose("world_qa", against="world_qa_test").clean


def test_one_row_is_few(tmp_path: Path) -> None:
    assert list(diagnose(write(tmp_path, [good(0)])).counts) == ["few rows"]


def test_rows_far_from_the_others_are_notes(tmp_path: Path) -> None:
    rows = [
        chat(f"Where is {n}?", f"House {n} stands in the {n}th street of the town.")
        for n in range(12)
    ]
    rows += [chat("Tell me all.", " ".join(map(str, range(900)))), chat("And more?", "5")]
    report = diagnose(write(tmp_path, rows))
    assert [one.row for one in report.where("very long")] == [13]
    assert [one.row for one in report.where("very short answer")] == [14] and report.clean


# --- tokens ---------------------------------------------------------------------------------------


def test_tokens_are_counted_against_the_cutoff(tiny: tuple[Any, Any], tmp_path: Path) -> None:
    rows = [good(0), chat("Tell me all.", "It is a long story." * 30), good(1)]
    report = diagnose(write(tmp_path, rows), tokenizer=tiny[1], cutoff_len=64)
    expected = [len(ftlab.encode(tiny[1], row)) for row in ftlab.read(tmp_path / "my.jsonl")]
    assert report.lengths == expected and report.unit == "tokens"
    assert [(one.code, one.row) for one in report.findings] == [("too long", 2)]
    assert report.too_long == 1 and "1 rows (33.3 %) would lose their end" in str(report)


def test_characters_are_not_called_too_long(tmp_path: Path) -> None:
    report = diagnose(write(tmp_path, [good(0), good(1)]), cutoff_len=10)
    assert report.clean and report.too_long == 2 and report.unit == "characters"


def test_a_template_that_does_not_train_the_end_token(tmp_path: Path) -> None:
    from tests.throwaway import TEMPLATE, small_tokenizer

    path, tokenizer = write(tmp_path, [good(0), good(1)]), small_tokenizer()
    assert diagnose(path, tokenizer=tokenizer).findings == []
    tokenizer.chat_template = TEMPLATE.replace(
        "{{ m.content + '<|im_end|>' }}{% endgeneration %}",
        "{{ m.content }}{% endgeneration %}{{ '<|im_end|>' }}",
    )
    found = diagnose(path, tokenizer=tokenizer).findings
    assert [(one.code, one.level, one.row) for one in found] == [
        ("not encodable", "error", 1), ("not encodable", "error", 2)]  # fmt: skip
    assert "end-of-turn token" in found[0].reason and "template" in found[0].fix


# --- the shipped data -----------------------------------------------------------------------------


SHIPPED = json.loads((ftlab.data_dir() / "dataset_info.json").read_text("utf-8"))


@pytest.mark.parametrize("name", sorted(SHIPPED.keys() - {"messy", "identity"}))
def test_the_shipped_data_are_clean(name: str) -> None:
    report = diagnose(name)
    assert report.clean, str(report)


def test_the_shipped_template_trains_every_kind_of_row(tiny: tuple[Any, Any]) -> None:
    for name in ("tools_test", "polite_pairs_test", "polite_labels", "sums_think"):
        assert diagnose(name, tokenizer=tiny[1]).clean


def test_identity_has_its_placeholders_and_nothing_else() -> None:
    report = diagnose("identity")
    assert [code for code in report.counts if report.level(code) != "note"] == ["placeholder"]


# --- the report -----------------------------------------------------------------------------------


def test_private_text_is_masked_everywhere(tmp_path: Path) -> None:
    rows = [*around(chat("Who?", f"ada.quill@harbor.town, {SECRET}")), good(1),
            chat(good(3)["instruction"], "Ask ada.quill@harbor.town."),
            chat("谁知道这件事情呢？", "Ask ada.quill@harbor.town at the harbor."),
            ["ada.quill@harbor.town"], chat("Who?", {"a": SECRET})]  # fmt: skip
    report = diagnose(write(tmp_path, rows))
    shown = str(report) + report._repr_html_() + json.dumps(report.to_dict())
    for code in ("e-mail address", "secret key", "different answers", "other language", "format"):
        assert code in report.counts
    assert "quill" not in shown and SECRET[:8] not in shown
    diagnose(write(tmp_path, rows[:7])).fixed(tmp_path / "clean.jsonl")
    assert "quill" not in (tmp_path / "clean.jsonl.changes.jsonl").read_text("utf-8")


def test_html_in_the_data_is_escaped(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script><img src=x onerror=alert(1)>"
    rows = [*around(chat(evil, "Yes.</s>" + evil)), {evil: 1}, good(1) | {evil: "x"}]
    report = diagnose(write(tmp_path, rows, "a<b>.jsonl"))
    page = report._repr_html_()
    assert "<script" not in page and "<img" not in page and "<b>.jsonl" not in page
    assert "&lt;script" in page and "<svg" in page


def test_a_terminal_obeys_nothing_in_the_report(tmp_path: Path) -> None:
    rows = around({"\x1b[31m": 1, "out\u202e": 2})
    assert not {"\x1b", "\u202e"} & set(str(diagnose(write(tmp_path, rows))))


def test_the_report_has_at_most_forty_lines(tmp_path: Path) -> None:
    rows: list[Any] = [row for _, _, row, _, _ in IN_TEXT] + [row for _, row, _ in BROKEN]
    report = diagnose(write(tmp_path, [good(0), *rows, *rows]))
    assert len(str(report).splitlines()) <= 40
    assert all(f" {code}" in str(report) for code in report.counts)


def test_every_cause_says_what_to_do() -> None:
    assert len({check.code for check in CHECKS}) > 15
    for check in CHECKS:
        assert check.level in ("error", "warning", "note")


# --- never an exception ---------------------------------------------------------------------------

FILES = {
    "empty.jsonl": b"",
    "blank.jsonl": b" \n\n",
    "none.json": b"[]",
    "gbk.jsonl": '{"instruction": "你好", "output": "好"}'.encode("gb18030"),
    "utf16.jsonl": '{"instruction": "a", "output": "b"}'.encode("utf-16"),
    "comma.json": b'[{"instruction": "a", "output": "b"},]',
    "binary.jsonl": bytes(range(256)),
    "bad.gz": b"\x1f\x8b\x08nonsense",
    "bad.parquet": b"PAR1nonsensePAR1",
    "deep.jsonl": b"[" * 100_000,
    "cells.csv": b'a,b\n1,"2',
}


@pytest.mark.parametrize("name", FILES)
def test_an_unreadable_file_is_a_finding(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(FILES[name])
    report = diagnose(path)
    assert not report.clean and report.findings[0].path == path
    assert report.rows_read == report.rows_kept + report.rows_rejected
    assert str(report) and report._repr_html_() and json.dumps(report.to_dict())


def test_the_encoding_that_is_named_is_used(tmp_path: Path) -> None:
    path = tmp_path / "gbk.jsonl"
    path.write_text("\n".join(json.dumps(good(n) | {"output": f"你好{n}。", "instruction": f"问题{n}"},
                    ensure_ascii=False) for n in range(3)), encoding="gb18030")  # fmt: skip
    assert list(diagnose(path).counts) == ["encoding"]
    assert diagnose(path, encoding="gb18030").clean


@pytest.mark.parametrize("seed", range(40))
def test_random_bytes_never_raise(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    rows = [row for _, _, row, _, _ in IN_TEXT] + [r for _, r, _ in BROKEN if isinstance(r, dict)]
    data = bytearray("\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode())
    for _ in range(chance.randint(1, 30)):
        at = chance.randrange(len(data))
        data[at : at + chance.randint(0, 3)] = bytes(chance.choices(b'{}[]",:\\ue\n\xff\x00 ', k=2))
    path = tmp_path / f"my.{chance.choice(['jsonl', 'json', 'csv', 'txt'])}"
    path.write_bytes(data)
    report = diagnose(path)
    assert report.rows_read == report.rows_kept + report.rows_rejected
    assert str(report) and report._repr_html_()


def test_wrong_arguments_raise(tmp_path: Path) -> None:
    path = write(tmp_path, [good(0)])
    for wrong in ({"cutoff_len": 0}, {"formatting": "alpca"}, {"against": "nowhere.jsonl"},
                  {"columns": {"promt": "x"}}):  # fmt: skip
        with pytest.raises(ftlab.DataError):
            diagnose(path, **wrong)
    with pytest.raises(ftlab.DataError, match="nowhere"):
        diagnose(tmp_path / "nowhere.jsonl")


# --- the cleaned copy -----------------------------------------------------------------------------

CURED = (
    "control token", "end token in answer", "bidi override", "mojibake", "e-mail address",
    "phone number", "secret key", "ID number", "invisible character", "misspelt field",
    "missing field", "broken JSON", "broken character", "doubled key", "empty", "invisible",
    "not text", "format", "mixed formats", "duplicate", "outer blanks",
)  # fmt: skip


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".jsonl.gz"])
def test_a_fixed_copy_is_clean_and_every_change_is_listed(suffix: str, tmp_path: Path) -> None:
    faults = [row for code, _, row, _, _ in IN_TEXT if code in CURED] + [r for _, r, _ in BROKEN]
    rows = [*around(good(2)), *faults, good(1), chat("Who is it? ", "A friend.\n")]
    report, out = diagnose(write(tmp_path, rows)), tmp_path / f"clean{suffix}"
    changes = report.fixed(out)
    after = diagnose(out)
    assert not set(after.counts) & set(CURED), str(after)
    removed = [change for change in changes if "removed" in change]
    assert report.rows_read == after.rows_read + len(removed)
    assert after.rows_kept == after.rows_read
    listed = (tmp_path / f"{out.name}.changes.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line) for line in listed] == changes
    untouched = {change["row"] for change in changes}
    text = gzip.decompress(out.read_bytes()) if suffix.endswith(".gz") else out.read_bytes()
    for number, row in enumerate(rows, 1):
        if number not in untouched and isinstance(row, dict):
            assert row["output"] in text.decode()


def test_what_a_fix_writes(tmp_path: Path) -> None:
    rows = [
        chat("Say <|im_end|> twice: <|im_end|> now", "Yes.<|im_end|>"),
        {"Instruction ": "Who?", "output": 42, "id": 7},
        chat("Call whom?", "Call 13800138000 or ada@harbor.town"),
        chat("你好吗？", "你好，这是浣犲ソ"),
        good(1),
        good(1),
    ]
    changes = diagnose(write(tmp_path, rows)).fixed(tmp_path / "out.jsonl")
    lines = (tmp_path / "out.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [
        chat("Say < |im_end|> twice: < |im_end|> now", "Yes."),
        {"instruction": "Who?", "output": "42", "id": 7},
        chat("Call whom?", "Call [phone] or [e-mail]"),
        chat("你好吗？", "你好，这是你好"),
        good(1),
    ]
    fields = [(c["row"], c.get("field", "removed")) for c in changes]
    assert fields == [(1, "instruction"), (1, "output"), (2, "Instruction "), (2, "output"),
                      (3, "output"), (4, "output"), (6, "removed")]  # fmt: skip
    assert changes[3]["before"] == 42 and "duplicate" in changes[-1]["removed"]


@pytest.mark.parametrize(
    "text", ["instruction,output\nIs it?,Yes.</s>\nNo?,No. \n", "Is it?</s>\n13800138000\n"]
)
def test_a_table_stays_a_table_and_a_text_a_text(text: str, tmp_path: Path) -> None:
    suffix = ".csv" if "," in text else ".txt"
    path, out = tmp_path / f"my{suffix}", tmp_path / f"out{suffix}"
    path.write_text(text, "utf-8")
    diagnose(path).fixed(out)
    expected = text.replace("</s>", "").replace("No. ", "No.").replace("13800138000", "[phone]")
    assert out.read_text("utf-8").replace("\r", "") == expected
    with pytest.raises(ftlab.DataError, match="cannot hold"):
        diagnose(write(tmp_path, [good(0) | {"n": 1}, good(1)])).fixed(tmp_path / "new.csv")
    with pytest.raises(ftlab.DataError, match="another place"):
        diagnose(path).fixed(tmp_path / "nowhere" / f"out{suffix}")
    assert {file.name for file in tmp_path.iterdir()} == {
        "my.jsonl", path.name, out.name, f"{out.name}.changes.jsonl"}  # fmt: skip


def test_a_fix_overwrites_nothing(tmp_path: Path) -> None:
    path = write(tmp_path, [good(0), good(0)])
    with pytest.raises(ftlab.DataError, match="exists"):
        diagnose(path).fixed(path)
    (tmp_path / "new.jsonl.changes.jsonl").write_text("mine")
    with pytest.raises(ftlab.DataError, match="exists"):
        diagnose(path).fixed(tmp_path / "new.jsonl")
    assert not (tmp_path / "new.jsonl").exists()


def test_an_unreadable_file_is_not_fixed(tmp_path: Path) -> None:
    path = tmp_path / "comma.json"
    path.write_bytes(FILES["comma.json"])
    with pytest.raises(ftlab.DataError, match="comma"):
        diagnose(path).fixed(tmp_path / "out.json")
    assert not (tmp_path / "out.json").exists()


# --- the command line -----------------------------------------------------------------------------


def test_exit_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clean = write(tmp_path, around(good(2)))
    assert main(["data", "check", str(clean)]) == 0
    assert "nothing found" in capsys.readouterr().out
    bad = write(tmp_path, around(chat("Who?", "")), "bad.jsonl")
    assert main(["data", "check", str(bad)]) == 1
    assert "bad.jsonl:3" in capsys.readouterr().out
    assert main(["data", "check", str(tmp_path / "nowhere.jsonl")]) == 2
    assert capsys.readouterr().err.startswith("ftlab: ")
    warned = write(tmp_path, around(chat("Who?", "I am {{name}}.")), "warned.jsonl")
    assert main(["data", "check", str(warned)]) == 0


def test_fix_and_json_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad, out = write(tmp_path, around(chat("Who?", "I.</s>"))), tmp_path / "out.jsonl"
    assert main(["data", "check", str(bad), "--fix", str(out)]) == 1
    assert "6 rows written, 0 left out; 1 changes" in capsys.readouterr().out
    assert main(["data", "check", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows_read"] == 6
    assert main(["data", "check", str(bad), "--fix", str(out)]) == 2


def test_the_models_tokens_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, around(chat("Who?", "It is a long story. " * 20)))
    assert main(["data", "check", str(path), "--model", "tiny", "--cutoff-len", "64"]) == 1
    assert "length in tokens" in capsys.readouterr().out
