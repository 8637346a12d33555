"""Named templates: renderings written out by hand from the published formats, and exact masks.

The ids and labels were also compared with those of LLaMA-Factory 0.9.5's own encode_multiturn.
"""

from __future__ import annotations

import pytest
from families import PUBLISHED, family, published, tokenizer_for

import ftlab
from ftlab import templates
from ftlab.chat import parity, prompt_ids
from ftlab.tokens import IGNORED

TALK = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "How?"},
    {"role": "assistant", "content": "So."},
]
EMPTY = "<think>\n\n</think>\n\n"


def _chatml(think=""):
    return (
        "<|im_start|>system\nBe kind.<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n"
        f"<|im_start|>assistant\n[{think}Hello.<|im_end|>\n]"
        "<|im_start|>user\nHow?<|im_end|>\n"
        f"<|im_start|>assistant\n[{think}So.<|im_end|>\n]"
    )


# What LLaMA-Factory trains under each name (src/llamafactory/data/template.py at 007303c0): its
# slots put together by hand. In [brackets]: what carries loss.
GOLDEN = {
    "alpaca": "Be kind.### Instruction:\nHi\n\n### Response:\n[Hello.<eos>\n\n]"
    "### Instruction:\nHow?\n\n### Response:\n[So.<eos>\n\n]",
    "chatml": _chatml(),
    "deepseek": "<bos>Be kind.\n\nUser: Hi\n\nAssistant:[Hello.<eos>]"
    "User: How?\n\nAssistant:[So.<eos>]",
    "deepseek3": "<bos>Be kind.<｜User｜>Hi<｜Assistant｜>[Hello.<eos>]"
    "<｜User｜>How?<｜Assistant｜>[So.<eos>]",
    "default": "System: Be kind.<eos>\nHuman: Hi<eos>\nAssistant:[Hello.<eos>\n]"
    "Human: How?<eos>\nAssistant:[So.<eos>\n]",
    "gemma": "<bos><start_of_turn>user\nBe kind.\n\nHi<end_of_turn>\n"
    "<start_of_turn>model\n[Hello.<end_of_turn>\n]"
    "<start_of_turn>user\nHow?<end_of_turn>\n<start_of_turn>model\n[So.<end_of_turn>\n]",
    "llama3": "<bos><|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n[Hello.<|eot_id|>]"
    "<|start_header_id|>user<|end_header_id|>\n\nHow?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n[So.<|eot_id|>]",
    # The same as mistralai/cookbook, concept-deep-dive/tokenization/templates.md, Tokenizer V3.
    "mistral": "<bos>[INST] Be kind.\n\nHi[/INST][ Hello.<eos>][INST] How?[/INST][ So.<eos>]",
    "phi": "<|system|>\nBe kind.<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\n[Hello.<|end|>\n]"
    "<|user|>\nHow?<|end|>\n<|assistant|>\n[So.<|end|>\n]",
    "phi4": "<|im_start|>system<|im_sep|>Be kind.<|im_end|><|im_start|>user<|im_sep|>Hi<|im_end|>"
    "<|im_start|>assistant<|im_sep|>[Hello.<|im_end|>]<|im_start|>user<|im_sep|>How?<|im_end|>"
    "<|im_start|>assistant<|im_sep|>[So.<|im_end|>]",
    "qwen": _chatml(),
    "qwen3": _chatml(EMPTY),
    "qwen3_nothink": _chatml(),
}


def shown(tokenizer, enc):
    """The ids as text, with brackets around what is trained."""
    text, open_ = "", False
    for number, label in zip(enc.input_ids, enc.labels, strict=True):
        starts = (label != IGNORED) and not open_
        ends = open_ and label == IGNORED
        text += "[" * starts + "]" * ends + tokenizer.decode([number])
        open_ = label != IGNORED
    return text + "]" * open_


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_a_named_template_renders_and_trains_what_is_written_out_by_hand(name):
    tokenizer = templates.apply(family(name), name)
    enc = ftlab.encode(tokenizer, TALK)
    assert shown(tokenizer, enc) == GOLDEN[name]
    parity(tokenizer, {"messages": TALK})
    assert tokenizer.eos_token_id in [x for x in enc.labels if x != IGNORED]


def test_every_name_has_its_rendering_written_out():
    assert {*GOLDEN, "empty"} == set(templates.NAMES)


@pytest.mark.parametrize(
    ("name", "system"),
    [
        (
            "qwen",
            "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. "
            "You are a helpful assistant.<|im_end|>\n<|im_start|>user\nHi",
        ),
        ("qwen3_nothink", "<|im_start|>user\nHi"),
        ("chatml", "<|im_start|>user\nHi"),
        (
            "alpaca",
            "Below is an instruction that describes a task. Write a response that appropriately "
            "completes the request.\n\n### Instruction:\nHi",
        ),
    ],
)
def test_a_format_adds_its_own_system_prompt_to_rows_without_one(name, system):
    """LLaMA-Factory's ``qwen`` adds one: named for a model trained without, it differs."""
    tokenizer = templates.apply(family(name), name)
    text = tokenizer.decode(ftlab.encode(tokenizer, TALK[1:3]).input_ids)
    assert text.startswith(system)
    other = templates.apply(family(name), name, "Be brief.")
    assert "Be brief." in other.decode(ftlab.encode(other, TALK[1:3]).input_ids)


def test_qwen3_gives_the_empty_thoughts_when_thinking_is_off_and_trains_them_when_on():
    """LLaMA-Factory trains the empty think block unless enable_thinking is false."""
    tokenizer = templates.apply(family("qwen3"), "qwen3")
    row = TALK[1:3]
    on, off = (ftlab.encode(tokenizer, row, enable_thinking=x) for x in (True, False))
    assert on.input_ids == off.input_ids
    assert shown(tokenizer, on).endswith(f"assistant\n[{EMPTY}Hello.<|im_end|>\n]")
    assert shown(tokenizer, off).endswith(f"assistant\n{EMPTY}[Hello.<|im_end|>\n]")
    thought = [row[0], {"role": "assistant", "content": "<think>\nHm.\n</think>\n\nHello."}]
    off = ftlab.encode(tokenizer, thought, enable_thinking=False)
    assert shown(tokenizer, off).endswith(f"assistant\n{EMPTY}[Hello.<|im_end|>\n]")
    on = ftlab.encode(tokenizer, thought, enable_thinking=True)
    assert shown(tokenizer, on).endswith("[<think>\nHm.\n</think>\n\nHello.<|im_end|>\n]")


TOOL = {"name": "add", "description": "adds", "parameters": {"type": "object", "properties": {}}}
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": "两"}}}
TOOLS = [
    *TALK[:2],
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "3"},
    {"role": "assistant", "content": "Three."},
]


def test_tools_render_as_in_llamafactory_and_only_calls_and_answers_are_trained():
    tokenizer = templates.apply(family("qwen3_nothink"), "qwen3_nothink")
    for tool in (TOOL, {"type": "function", "function": TOOL}):
        enc = ftlab.encode(tokenizer, {"messages": TOOLS, "tools": [tool]})
        text = shown(tokenizer, enc)
        assert text == (
            "<|im_start|>system\nBe kind.\n\n# Tools\n\nYou may call one or more functions to "
            "assist with the user query.\n\nYou are provided with function signatures within "
            '<tools></tools> XML tags:\n<tools>\n{"type": "function", "function": {"name": "add", '
            '"description": "adds", "parameters": {"type": "object", "properties": {}}}}\n</tools>'
            "\n\nFor each function call, return a json object with function name and arguments "
            'within <tool_call></tool_call> XML tags:\n<tool_call>\n{"name": <function-name>, '
            '"arguments": <args-json-object>}\n</tool_call><|im_end|>\n<|im_start|>user\nHi'
            "<|im_end|>\n"
            '<|im_start|>assistant\n[<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": "'
            + text[text.index('"b": "') + 6 : text.index('"}}\n</tool_call>')]
            + '"}}\n</tool_call><|im_end|>\n]<|im_start|>user\n<tool_response>\n3\n</tool_response>'
            "<|im_end|>\n<|im_start|>assistant\n[Three.<|im_end|>\n]"
        )
        assert "两" in tokenizer.decode(enc.input_ids)


def test_tools_without_a_system_prompt_stand_where_llamafactory_puts_them():
    """It writes two line breaks more than Qwen3's own template there."""
    tokenizer = templates.apply(family("qwen3_nothink"), "qwen3_nothink")
    enc = ftlab.encode(tokenizer, {"messages": TOOLS[1:], "tools": [TOOL]})
    assert tokenizer.decode(enc.input_ids).startswith("<|im_start|>system\n\n\n# Tools\n\nYou may")


def test_qwen_templates_equal_the_published_ones():
    row = {"messages": TOOLS, "tools": [TOOL]}
    for name, stock in (("qwen", "qwen2_5"), ("qwen3", "qwen3_training")):
        tokenizer = templates.apply(family(name), name)
        for messages in (TALK, TALK[1:], TALK[1:3]):
            ours = tokenizer.apply_chat_template(messages, tokenize=False)
            assert ours == tokenizer.apply_chat_template(
                messages, tokenize=False, chat_template=published(stock)
            )
    tokenizer = templates.apply(family("qwen"), "qwen")
    tools = [{"type": "function", "function": TOOL}]
    ours, theirs = (
        tokenizer.apply_chat_template(row["messages"], tools=tools, tokenize=False, chat_template=t)
        for t in (None, published("qwen2_5"))
    )
    head = "<|im_start|>assistant"  # a call without text begins with one line break more in Qwen2.5
    assert (
        ours.split(head)[0] == theirs.split(head)[0]
        and ours.split(head)[2] == theirs.split(head)[2]
    )


# --- templates without {% generation %}: the mask of TRL's marked copies is found all the same ----

PAIRS = ["cohere", "cohere2", "gemma", "gemma3", "lfm2", "llama3", "phi3", "phi3_5", "qwen2_5_vl",
         "qwen3", "qwen3_instruct_2507", "qwen3_vl"]  # fmt: skip
TALKS = {"one turn": TALK[1:3], "two turns": TALK[1:], "with system": TALK[:3], "all": TALK}


@pytest.mark.parametrize("talk", TALKS)
@pytest.mark.parametrize("name", PAIRS)
def test_a_published_template_without_marks_gets_the_mask_of_its_marked_copy(name, talk):
    stock, marked = published(name), published(f"{name}_training")
    tokenizer = tokenizer_for(stock)
    tokenizer.name_or_path = "google/gemma"
    if name == "gemma" and TALKS[talk][0]["role"] == "system":
        with pytest.raises(ftlab.DataError, match="google/gemma refuses .*System role not"):
            ftlab.encode(tokenizer, TALKS[talk])
        return
    enc = ftlab.encode(tokenizer, TALKS[talk])
    theirs = tokenizer.apply_chat_template(
        TALKS[talk], chat_template=marked, return_dict=True, return_assistant_tokens_mask=True
    )
    if name == "qwen3" and len(TALKS[talk]) > 3:  # its marked copy also keeps earlier thoughts
        assert enc.input_ids != theirs["input_ids"]
        assert shown(tokenizer, enc).count("[") == 2
        return
    assert enc.input_ids == theirs["input_ids"]
    assert [int(label != IGNORED) for label in enc.labels] == theirs["assistant_masks"]


def test_where_a_marked_copy_trains_the_header_ours_does_not():
    """TRL's copies for Qwen2.5 and gpt-oss train a part of what the prompt for an answer holds."""
    for name, start in (("qwen2_5", "Hello."), ("gptoss", "<|channel|>final<|message|>Hello.")):
        tokenizer = tokenizer_for(published(name))
        enc = ftlab.encode(tokenizer, TALK[1:3])
        asked = prompt_ids(tokenizer, TALK[1:2])
        assert enc.input_ids[: len(asked)] == asked
        assert all(label == IGNORED for label in enc.labels[: len(asked)])
        assert tokenizer.decode(enc.input_ids[len(asked) :]).startswith(start)
        parity(tokenizer, {"messages": TALK[1:3]})


@pytest.mark.parametrize("name", ["deepseek_r1_distill", "deepseekv3"])
def test_a_prompt_that_opens_thoughts_the_data_lack_is_an_error_that_says_so(name):
    with pytest.raises(
        ftlab.ModelError, match=r"ends in '<｜Assistant｜><think>\\n', and in the whole"
    ):
        ftlab.encode(tokenizer_for(published(name)), TALK[1:3])


def test_a_template_that_never_ends_an_answer_is_refused():
    for tokenizer in (
        templates.apply(family("empty"), "empty"),
        tokenizer_for(published("glm4moe")),
    ):
        with pytest.raises(ftlab.ModelError, match="never learn to stop"):
            ftlab.encode(tokenizer, TALK[1:3])


def test_earlier_answers_need_no_exact_place_when_only_the_last_is_trained():
    """Qwen3.5 opens thoughts in every prompt and drops them from the history."""
    tokenizer = tokenizer_for(published("qwen3_5_think"))
    with pytest.raises(ftlab.ModelError, match="mask_history: true"):
        ftlab.encode(tokenizer, TALK[1:])
    enc = ftlab.encode(tokenizer, TALK[1:], mask_history=True)
    assert shown(tokenizer, enc).endswith("assistant\n<think>\n[\n</think>\n\nSo.<|im_end|>\n]")
    assert "earlier answer" in enc.mask_reason


# --- choosing one --------------------------------------------------------------------------------


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(ftlab.RecipeError, match=r"template='lama3'.*Did you mean 'llama3'"):
        templates.apply(family("chatml"), "lama3")


def test_a_tokenizer_without_the_tokens_of_a_format_is_named():
    with pytest.raises(ftlab.ModelError, match=r"needs the tokens .*<\|eot_id\|>.*alpaca"):
        templates.apply(family("chatml"), "llama3")


def test_applying_a_template_leaves_the_given_tokenizer_alone():
    tokenizer = family("gemma")
    before = tokenizer.chat_template, tokenizer.eos_token
    assert templates.apply(tokenizer, "gemma").eos_token == "<end_of_turn>"
    assert (tokenizer.chat_template, tokenizer.eos_token) == before


def test_a_format_without_a_place_for_tools_says_so():
    tokenizer = templates.apply(family("llama3"), "llama3")
    with pytest.raises(ftlab.DataError, match="no place for tools"):
        ftlab.encode(tokenizer, {"messages": TALK, "tools": [TOOL]})
    with pytest.raises(ftlab.DataError, match="no place here for a turn of role tool"):
        ftlab.encode(tokenizer, [*TALK, {"role": "tool", "content": "3"}])


def test_the_shipped_tokenizer_renders_like_the_name_its_saved_recipe_has(tiny):
    named = templates.apply(tiny[1], "qwen3_nothink")
    for row in ({"messages": TALK}, {"messages": TALK[1:]}, {"messages": TOOLS, "tools": [TOOL]}):
        ours, theirs = ftlab.encode(tiny[1], row), ftlab.encode(named, row)
        assert (ours.input_ids, ours.labels) == (theirs.input_ids, theirs.labels)


def test_the_templates_ship_with_the_package():
    folder = templates._FOLDER
    assert {path.name for path in folder.iterdir()} == {"turns.jinja", "qwen.jinja"}
    assert PUBLISHED.is_dir()
