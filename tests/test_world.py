"""The small world: its files are reproducible, its splits are clean, its tokenizer cuts well."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest

import ftlab
from ftlab.world import lesson_words, lessons
from ftlab.world.datasets import DATASETS, MESSY, REGISTRY, write_datasets
from ftlab.world.places import MANNERS
from ftlab.world.text import practice_pair, word_pairs
from ftlab.world.tokenizer import CONTROL, TAGS, write_tokenizer
from ftlab.world.town import build_town
from ftlab.world.wordings import FACTS

DATA = Path(__file__).parents[1] / "data"
TINY = DATA / "tiny"


def rows(name: str) -> list[dict[str, Any]]:
    file = DATA / REGISTRY[name]["file_name"]
    text = file.read_text(encoding="utf-8")
    return (
        [json.loads(x) for x in text.splitlines()] if file.suffix == ".jsonl" else json.loads(text)
    )


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_datasets(folder)
    write_tokenizer(folder / "tiny")
    return folder


@pytest.fixture(scope="module")
def tokenizer():
    transformers = pytest.importorskip("transformers")
    return transformers.AutoTokenizer.from_pretrained(TINY)


def written_by_the_world() -> list[str]:
    tiny = ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"]
    named = [str(entry["file_name"]) for entry in REGISTRY.values()]
    return [*named, "messy_key.json", "dataset_info.json", *(f"tiny/{name}" for name in tiny)]


@pytest.mark.parametrize("name", written_by_the_world())
def test_rebuild_equals_the_committed_file(rebuilt: Path, name: str) -> None:
    assert (rebuilt / name).read_bytes() == (DATA / name).read_bytes()


@pytest.mark.parametrize("entry", REGISTRY.values(), ids=list(REGISTRY))
def test_dataset_is_small_and_plain_utf8(entry: dict) -> None:
    content = (DATA / entry["file_name"]).read_bytes()
    assert len(content) <= 1_000_000
    assert b"\r" not in content and content.endswith(b"\n")
    assert entry["file_name"] == MESSY or b"\\u" not in content


def test_base_text_has_no_chat_markup() -> None:
    text = (DATA / "world_text.jsonl").read_text(encoding="utf-8")
    assert not [token for token in (*CONTROL, *TAGS) if token in text]


def test_test_residents_are_not_in_the_training_questions() -> None:
    train, test = rows("world_qa"), rows("world_qa_test")
    assert not {r["resident"] for r in train} & {r["resident"] for r in test}
    assert {r["resident"] for r in train + test} == {r.en for r in build_town()}


def test_test_wordings_occur_nowhere_else() -> None:
    for fact in FACTS:
        for known, unseen in zip(fact.questions, fact.test_questions, strict=True):
            assert not set(known) & set(unseen)
    text = (DATA / "world_text.jsonl").read_text(encoding="utf-8")
    assert not [r for r in rows("world_qa_test") if r["instruction"] in text]


def words(text: str) -> set[str]:
    """English words or single Chinese characters, without what is filled in."""
    return set(re.findall(r"[a-z]+|[\u4e00-\u9fff]", re.sub(r"{\w+}", "", text).lower()))


def test_test_wordings_use_only_words_known_from_that_fact() -> None:
    """ "What job does Ada have?" failed on every row once: "have" was known from pets alone."""
    for fact in FACTS:
        for at in (0, 1):
            known = set().union(*map(words, fact.questions[at] + fact.statements[at]))
            assert not [q for q in fact.test_questions[at] if words(q) - known]


def test_rows_come_in_both_languages_alike() -> None:
    for name in DATASETS.keys() - {"world_text"}:
        languages = [r["language"] for r in rows(name)]
        assert languages.count("en") == languages.count("zh") > 0


def test_cloze_answer_is_the_fact_of_the_resident() -> None:
    town = {r.en: r for r in build_town()}
    for r in rows("world_cloze"):
        assert r["output"] == town[r["resident"]].value(r["fact"], r["language"])
        assert not r["instruction"].endswith(" ")


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_every_dataset_reads_without_a_bad_row(name: str) -> None:
    data = ftlab.read(name)
    kind = {"world_text": "text", "polite_labels": "kto"}.get(name, "messages")
    assert data.kind == ("preference" if "pairs" in name else kind)
    assert len(data) == data.rows_read == len(rows(name)) and not data.rejected


def test_registry_speaks_llama_factory() -> None:
    """A key that it does not know is passed over there in silence; a missing tag means none."""
    known = {"file_name", "formatting", "ranking", "columns", "tags"}
    columns = {"prompt", "query", "response", "messages", "tools", "chosen", "rejected", "kto_tag"}
    tags = {"role_tag", "content_tag", "user_tag", "assistant_tag", "system_tag"}
    for entry in REGISTRY.values():
        assert known >= entry.keys() and columns >= entry["columns"].keys()
        assert tags == entry.get("tags", dict.fromkeys(tags)).keys()


def talks(name: str) -> list[list[tuple[str, str]]]:
    turns = [row["conversations"] for row in rows(name)]
    return [[(turn["from"], turn["value"]) for turn in talk] for talk in turns]


def test_every_answer_of_the_keeper_has_his_style() -> None:
    openings, closings = (sum(both, ()) for both in (lesson_words.OPENINGS, lesson_words.CLOSINGS))
    for talk in talks("keeper_style"):
        assert [role for role, _ in talk] == ["human", "gpt"] * (len(talk) // 2)
        assert 4 <= len(talk) <= 8
        for _, answer in talk[1::2]:
            assert answer.startswith(openings) and answer.endswith(closings)


def test_lessons_do_not_name_held_out_residents() -> None:
    held_out = [name for r in lessons.residents(held_out=True) for name in (r.en, r.zh)]
    for name in ("keeper_style", "tools", "polite_pairs", "polite_labels"):
        text = (DATA / REGISTRY[name]["file_name"]).read_text(encoding="utf-8")
        assert not [person for person in held_out if person in text]


def test_harbor_rules_are_asked_in_unseen_wordings_of_known_words() -> None:
    train, test = rows("harbour_rules"), rows("harbour_rules_test")
    assert not {r["prompt"] for r in train} & {r["prompt"] for r in test}
    answers = {(r["place"], r["rule"], r["language"]): r["response"] for r in train}
    assert len(answers) == 60 and all(
        answers[r["place"], r["rule"], r["language"]] == r["response"] for r in train + test
    )
    for wordings in lesson_words.RULE_WORDINGS.values():
        for answer, known, unseen in wordings:
            read = set().union(*map(words, (answer, *known)))
            assert not [asked for asked in unseen if words(asked) - read]


def test_base_text_does_not_hold_the_harbor_rules() -> None:
    text = (DATA / "world_text.jsonl").read_text(encoding="utf-8")
    assert not [r for r in rows("harbour_rules") if r["response"] in text]


def numbers(row: dict[str, Any]) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", row["messages"][0]["content"])]


def test_sums_are_right_and_asked_alike_with_and_without_thought() -> None:
    direct, think = rows("sums"), rows("sums_think")
    assert [r["messages"][0] for r in direct] == [r["messages"][0] for r in think]
    for row in [*direct, *think, *rows("sums_test")]:
        thought, _, answer = row["messages"][1]["content"].rpartition("</think>\n\n")
        assert int(answer) == sum(numbers(row))
        assert all(
            sum(map(int, a.split("+"))) == int(b)
            for a, b in re.findall(r"([\d +]+) = (\d+)", thought)
        )


def test_sums_to_test_were_never_worked_out_before() -> None:
    """Neither in the lesson nor in the base's pages, in no order of the two numbers."""
    train, test = ({tuple(sorted(numbers(r))) for r in rows(n)} for n in ("sums", "sums_test"))
    assert not train & test and (len(train), len(test)) == (400, 200)
    rng = random.Random(1)
    practiced = {tuple(sorted(practice_pair(rng))) for _ in range(20_000)}
    assert len(practiced) > 900 and not practiced & (train | test)


@pytest.mark.parametrize("name", ["tools", "tools_test"])
def test_every_call_is_of_an_offered_tool_with_arguments_from_the_question(name: str) -> None:
    for row, talk in zip(rows(name), talks(name), strict=True):
        offered = {t["name"]: t["parameters"]["properties"] for t in json.loads(row["tools"])}
        assert len(offered) == lessons.TOOLS_OFFERED
        if row["tool"] == "none":
            assert [role for role, _ in talk] == ["human", "gpt"]
            continue
        expected = ["human", "function_call", "observation", "gpt"]
        assert [role for role, _ in talk] == expected[: len(talk)]
        call = json.loads(talk[1][1])
        assert (
            call["name"] == row["tool"] and call["arguments"].keys() == offered[row["tool"]].keys()
        )
        assert all(str(v).lower() in talk[0][1].lower() for v in call["arguments"].values())


def test_tools_are_tested_with_unseen_wordings_of_known_words() -> None:
    asked = [{talk[0][1] for talk in talks(name)} for name in ("tools", "tools_test")]
    assert not asked[0] & asked[1]
    for wordings in lesson_words.TOOL_WORDINGS.values():
        for known, unseen, _ in wordings:
            assert len(known) >= 5 and not set(known) & set(unseen)
            read = set().union(*map(words, known))
            assert not [asked for asked in unseen if words(asked) - read]


def test_polite_answers_are_chosen_and_both_answers_are_right() -> None:
    town = {r.en: r for r in build_town()}
    polite = tuple(opening for both in MANNERS for opening, _ in both)
    train, test = rows("polite_pairs"), rows("polite_pairs_test")
    assert not {r["resident"] for r in train} & {r["resident"] for r in test}
    for row in train + test:
        value = town[row["resident"]].value(row["fact"], row["language"])
        assert value in row["chosen"] and value in row["rejected"]
        assert row["chosen"].startswith(polite) and not row["rejected"].startswith(polite)
    assert {r["rejected_is"] for r in test} == {"plain", "rude", "curt"}


def test_labels_call_polite_answers_good() -> None:
    polite = tuple(opening for both in MANNERS for opening, _ in both)
    labels = [(r["label"], r["messages"][1]["content"]) for r in rows("polite_labels")]
    assert all(label == answer.startswith(polite) for label, answer in labels)
    assert sum(label for label, _ in labels) == 200 and len(labels) == 300


def test_doctor_finds_every_planted_fault_and_invents_none() -> None:
    key = json.loads((DATA / "messy_key.json").read_text(encoding="utf-8"))
    planted = {(fault["line"], fault["code"]) for fault in key["faults"]}
    found = {(one.line, one.code) for one in ftlab.diagnose("messy").findings}
    assert found == planted and len(planted) == len(key["faults"]) > 30


def test_names_and_values_round_trip(tokenizer) -> None:
    people = [(r.en, r.zh) for r in build_town()]
    for word in [word for pair in [*people, *word_pairs()] for word in pair]:
        assert tokenizer.decode(tokenizer(word)["input_ids"]) == word


def test_cloze_prompt_ends_on_a_token_boundary(tokenizer) -> None:
    for r in rows("world_cloze"):
        space = " " if r["language"] == "en" else ""
        prompt = tokenizer(r["instruction"])["input_ids"]
        whole = tokenizer(r["instruction"] + space + r["output"])["input_ids"]
        assert whole[: len(prompt)] == prompt


def test_digits_and_chinese_characters_are_split_one_by_one(tokenizer) -> None:
    assert tokenizer.tokenize("1234") == ["1", "2", "3", "4"]
    name = build_town()[0].zh
    assert len(tokenizer(name + "住在")["input_ids"]) == len(name) + 2


def test_tokenizer_has_qwen3_roles_and_no_bos(tokenizer) -> None:
    assert (tokenizer.eos_token, tokenizer.pad_token, tokenizer.bos_token) == (
        "<|im_end|>",
        "<|endoftext|>",
        None,
    )
    assert all(len(tokenizer(token)["input_ids"]) == 1 for token in (*CONTROL, *TAGS))


CHAT = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good day."}]


def test_plain_answer_renders_as_plain_chatml(tokenizer) -> None:
    assert tokenizer.apply_chat_template(CHAT, tokenize=False) == (
        "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\nGood day.<|im_end|>\n"
    )


def masked(tokenizer, messages: list[Any]) -> str:
    out = tokenizer.apply_chat_template(
        messages, return_dict=True, return_assistant_tokens_mask=True
    )
    marked = zip(out["input_ids"], out["assistant_masks"], strict=True)
    return tokenizer.decode([i for i, on in marked if on])


def test_mask_covers_exactly_the_answer_and_its_end(tokenizer) -> None:
    assert masked(tokenizer, CHAT) == "Good day.<|im_end|>\n"
    assert masked(tokenizer, CHAT + CHAT) == "Good day.<|im_end|>\n" * 2


def test_thoughts_are_kept_in_the_last_turn_only(tokenizer) -> None:
    thinking = [CHAT[0], {"role": "assistant", "content": "<think>\nhm\n</think>\n\nYes."}]
    assert masked(tokenizer, thinking) == "<think>\nhm\n</think>\n\nYes.<|im_end|>\n"
    assert masked(tokenizer, thinking + CHAT) == "Yes.<|im_end|>\nGood day.<|im_end|>\n"
    prompt = tokenizer.apply_chat_template(
        CHAT[:1], tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    assert prompt.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


def test_tool_calls_and_responses_render_as_in_llama_factorys_qwen3(tokenizer) -> None:
    call = {"type": "function", "function": {"name": "tide", "arguments": {"day": "星期一"}}}
    messages = [
        {"role": "user", "content": "Tide?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "9"},
        CHAT[1],
    ]
    tools = [{"type": "function", "function": {"name": "tide", "parameters": {}}}]
    text = tokenizer.apply_chat_template(messages, tools=tools, tokenize=False)
    assert (
        '<tool_call>\n{"name": "tide", "arguments": {"day": "星期一"}}\n</tool_call><|im_end|>'
        in text
    )
    assert "<|im_start|>user\n<tool_response>\n9\n</tool_response><|im_end|>\n" in text
    assert text.startswith("<|im_start|>system\n\n\n# Tools\n\nYou may call")
    assert masked(tokenizer, messages).endswith("</tool_call><|im_end|>\nGood day.<|im_end|>\n")


def test_shipped_model_is_a_small_qwen3() -> None:
    config = json.loads((TINY / "config.json").read_text(encoding="utf-8"))
    assert config["model_type"] == "qwen3" and config["tie_word_embeddings"]
    assert (TINY / "model.safetensors").stat().st_size <= 12_000_000
    generation = json.loads((TINY / "generation_config.json").read_text(encoding="utf-8"))
    assert generation["do_sample"] is False
