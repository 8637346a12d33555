"""Ids and labels: exactly which tokens are trained, checked id by id."""

import pytest
from transformers import AutoTokenizer

import ftlab
from ftlab.chat import IGNORED, pieces, prompt_ids, with_system

TALK = [
    {"role": "user", "content": "Who is Ada?"},
    {"role": "assistant", "content": "A doctor."},
    {"role": "user", "content": "And 何费恩?"},
    {"role": "assistant", "content": "一位医生。"},
]


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(ftlab.data_dir() / "tiny")


def trained_text(tokenizer, enc):
    return tokenizer.decode([label for label in enc.labels if label != IGNORED])


def test_the_answers_and_their_end_of_turn_are_trained_and_nothing_else(tokenizer):
    enc = ftlab.encode(tokenizer, TALK)
    assert trained_text(tokenizer, enc) == "A doctor.<|im_end|>\n一位医生。<|im_end|>\n"


def test_labels_stand_on_their_own_tokens(tokenizer):
    enc = ftlab.encode(tokenizer, TALK)
    assert all(a == b for a, b in zip(enc.input_ids, enc.labels, strict=True) if b != IGNORED)
    assert [r == "trained" for r in enc.mask_reason] == [b != IGNORED for b in enc.labels]


def test_ids_are_the_rendered_template_token_by_token(tokenizer):
    text = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in TALK)
    assert ftlab.encode(tokenizer, TALK).input_ids == tokenizer(text)["input_ids"]


def test_a_generation_prompt_is_the_beginning_of_the_training_ids(tokenizer):
    asked = prompt_ids(tokenizer, TALK[:3])
    enc = ftlab.encode(tokenizer, TALK)
    assert enc.input_ids[: len(asked)] == asked
    assert enc.labels[len(asked)] != IGNORED  # the first token that is generated is trained


def test_mask_history_trains_the_last_answer_only(tokenizer):
    enc = ftlab.encode(tokenizer, TALK, mask_history=True)
    assert trained_text(tokenizer, enc) == "一位医生。<|im_end|>\n"
    assert "earlier answer" in enc.mask_reason


def test_train_on_prompt_trains_everything(tokenizer):
    enc = ftlab.encode(tokenizer, TALK, train_on_prompt=True)
    assert enc.labels == enc.input_ids


def test_a_text_trains_whole_and_ends_with_end_of_text(tokenizer):
    enc = ftlab.encode(tokenizer, {"text": "Ada is a doctor."})
    assert enc.labels == enc.input_ids
    assert tokenizer.decode(enc.input_ids[-1:]) == "<|endoftext|>"


def test_tokens_put_together_are_the_text(tokenizer):
    enc = ftlab.encode(tokenizer, TALK)
    assert "".join(enc.tokens) == tokenizer.decode(enc.input_ids)
    assert "".join(pieces(tokenizer, tokenizer("鱼🐟鱼")["input_ids"])) == "鱼🐟鱼"


def test_the_views_show_every_token_and_escape_the_text(tokenizer):
    enc = ftlab.encode(tokenizer, [{"role": "user", "content": "<script>"}, TALK[1]])
    assert "<script>" not in enc._repr_html_() and "&lt;" in enc._repr_html_()
    assert "[.]" in enc.text_view()


def test_a_row_longer_than_cutoff_is_refused_not_cut(tokenizer):
    with pytest.raises(ftlab.DataError, match=r"qa\.json:3: the example has \d+ tokens"):
        ftlab.encode(tokenizer, {"messages": TALK, "source": "qa.json:3"}, cutoff_len=5)


def test_a_conversation_without_an_answer_is_refused(tokenizer):
    with pytest.raises(ftlab.DataError, match="no token of this example would be trained"):
        ftlab.encode(tokenizer, TALK[:1])


def test_a_tokenizer_without_a_template_says_what_to_do(tokenizer):
    bare = AutoTokenizer.from_pretrained(ftlab.data_dir() / "tiny")
    bare.chat_template = None
    with pytest.raises(ftlab.ModelError, match="no chat template"):
        ftlab.encode(bare, TALK)


def test_a_template_without_marks_that_trl_knows_is_patched(tokenizer):
    from trl.chat_template_utils import qwen3_chat_template

    other = AutoTokenizer.from_pretrained(ftlab.data_dir() / "tiny")
    other.chat_template = qwen3_chat_template
    assert trained_text(other, ftlab.encode(other, TALK)).count("<|im_end|>") == 2
    other.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    with pytest.raises(ftlab.ModelError, match="does not mark what the assistant says"):
        ftlab.encode(other, TALK)


def test_a_system_prompt_is_added_once():
    row = {"messages": TALK}
    once = with_system(row, "Be brief.")
    assert once["messages"][0] == {"role": "system", "content": "Be brief."}
    assert with_system(once, "Be long.") == once and with_system(row, None) is row
