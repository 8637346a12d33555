"""The small world: its files are reproducible, its splits are clean, its tokenizer cuts well."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from ftlab.world.datasets import REGISTRY, write_datasets
from ftlab.world.text import word_pairs
from ftlab.world.tokenizer import CONTROL, TAGS, write_tokenizer
from ftlab.world.town import build_town
from ftlab.world.wordings import FACTS

DATA = Path(__file__).parents[1] / "data"
TINY = DATA / "tiny"


def rows(name: str) -> list[dict[str, str]]:
    return json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))


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
    return [str(entry["file_name"]) for entry in REGISTRY.values()] + [
        f"tiny/{name}" for name in tiny
    ]


@pytest.mark.parametrize("name", written_by_the_world())
def test_rebuild_equals_the_committed_file(rebuilt: Path, name: str) -> None:
    assert (rebuilt / name).read_bytes() == (DATA / name).read_bytes()


def test_registry_lists_every_dataset() -> None:
    registry = json.loads((DATA / "dataset_info.json").read_text(encoding="utf-8"))
    assert registry.items() >= REGISTRY.items()


@pytest.mark.parametrize("entry", REGISTRY.values(), ids=list(REGISTRY))
def test_dataset_is_small_and_plain_utf8(entry: dict) -> None:
    content = (DATA / entry["file_name"]).read_bytes()
    assert len(content) <= 1_000_000
    assert b"\r" not in content and b"\\u" not in content and content.endswith(b"\n")


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
    """English words or single Chinese characters, names left out."""
    return set(re.findall(r"[a-z]+|[\u4e00-\u9fff]", text.replace("{n}", "").lower()))


def test_test_wordings_use_only_words_known_from_that_fact() -> None:
    """ "What job does Ada have?" failed on every row once: "have" was known from pets alone."""
    for fact in FACTS:
        for at in (0, 1):
            known = set().union(*map(words, fact.questions[at] + fact.statements[at]))
            assert not [q for q in fact.test_questions[at] if words(q) - known]


def test_questions_come_in_both_languages_alike() -> None:
    for name in ("world_qa", "world_qa_test", "world_cloze", "identity"):
        languages = [r["language"] for r in rows(name)]
        assert languages.count("en") == languages.count("zh") > 0


def test_cloze_answer_is_the_fact_of_the_resident() -> None:
    town = {r.en: r for r in build_town()}
    for r in rows("world_cloze"):
        assert r["output"] == town[r["resident"]].value(r["fact"], r["language"])
        assert not r["instruction"].endswith(" ")


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


def test_tool_calls_and_responses_render_as_in_qwen3(tokenizer) -> None:
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
    assert text.startswith("<|im_start|>system\n# Tools\n\nYou may call")
    assert masked(tokenizer, messages).endswith("</tool_call><|im_end|>\nGood day.<|im_end|>\n")


def test_shipped_model_is_a_small_qwen3() -> None:
    config = json.loads((TINY / "config.json").read_text(encoding="utf-8"))
    assert config["model_type"] == "qwen3" and config["tie_word_embeddings"]
    assert (TINY / "model.safetensors").stat().st_size <= 12_000_000
    generation = json.loads((TINY / "generation_config.json").read_text(encoding="utf-8"))
    assert generation["do_sample"] is False
