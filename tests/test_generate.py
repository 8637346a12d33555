"""Generation: the answers are the model's own, and nothing is left changed."""

from __future__ import annotations

import random
import threading
import time
from typing import Any

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from throwaway import small_model, small_tokenizer
from transformers import GenerationConfig, LogitsProcessor

from ftlab.chat import prompt_ids
from ftlab.errors import DataError, ModelError, RecipeError
from ftlab.generate import chat, generate, stop_ids, stream, turn
from ftlab.streaming import split_thoughts

PROMPTS = ["a", "the baker of the town", "Wo", "market row, third house", "你好", "1 + 1 = "]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return small_tokenizer()


@pytest.fixture()
def model() -> Any:
    return small_model()


@torch.no_grad()
def by_hand(model: Any, ids: list[int], steps: int, stop: list[int]) -> list[int]:
    """Greedy decoding without cache, padding or batch: the whole text through the model again."""
    ids, start = list(ids), len(ids)
    for _ in range(steps):
        ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] in stop:
            break
    return ids[start:]


def test_greedy_answers_are_those_of_a_loop_by_hand(model, tokenizer):
    stop = stop_ids(model, tokenizer)
    expected = [
        tokenizer.decode(
            by_hand(model, tokenizer(prompt)["input_ids"], 12, stop), skip_special_tokens=True
        ).rstrip("\ufffd")  # half a character
        for prompt in PROMPTS
    ]
    assert generate(model, tokenizer, PROMPTS, max_new_tokens=12) == expected
    assert len(set(expected)) > 1


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_greedy_answers_do_not_depend_on_the_batch_size(model, tokenizer, batch_size):
    together = generate(model, tokenizer, PROMPTS, max_new_tokens=12)
    assert generate(model, tokenizer, PROMPTS, max_new_tokens=12, batch_size=batch_size) == together


def test_answers_come_back_in_the_order_of_the_prompts(model, tokenizer):
    backward = generate(model, tokenizer, PROMPTS[::-1], max_new_tokens=12, batch_size=2)
    assert backward[::-1] == generate(model, tokenizer, PROMPTS, max_new_tokens=12)


def test_messages_go_through_the_chat_template(model, tokenizer):
    messages = [{"role": "user", "content": "Who bakes?"}]
    ids = by_hand(model, prompt_ids(tokenizer, messages), 12, stop_ids(model, tokenizer))
    assert chat(model, tokenizer, messages, max_new_tokens=12) == (
        tokenizer.decode(ids, skip_special_tokens=True).strip()
    )
    assert chat(model, tokenizer, "Who bakes?", max_new_tokens=12) == (
        chat(model, tokenizer, messages, max_new_tokens=12)
    )


def test_generation_ends_at_every_known_end_of_a_turn(tokenizer):
    model = small_model()
    assert {"<|im_end|>", "<|endoftext|>"} <= set(
        tokenizer.convert_ids_to_tokens(stop_ids(model, tokenizer))
    )
    model.generation_config = GenerationConfig(eos_token_id=[7, 9])
    assert {7, 9} <= set(stop_ids(model, tokenizer))
    model.generation_config = GenerationConfig()
    first = by_hand(model, tokenizer("a")["input_ids"], 1, [])
    model.generation_config = GenerationConfig(eos_token_id=first)
    long = generate(model, tokenizer, ["a"], max_new_tokens=30)
    assert long == [tokenizer.decode(first, skip_special_tokens=True)]


def test_decoding_settings_shipped_with_a_model_are_left_out_and_left_alone(model, tokenizer):
    """Qwen3 ships top_k=20 and temperature=0.6: a comparison would follow the model's file."""
    neutral = generate(model, tokenizer, PROMPTS, max_new_tokens=12)
    sampled = generate(model, tokenizer, PROMPTS, max_new_tokens=12, do_sample=True, seed=1)
    own = GenerationConfig(
        do_sample=True, temperature=0.1, top_k=2, min_p=0.5, repetition_penalty=1.9
    )
    model.generation_config = own
    assert generate(model, tokenizer, PROMPTS, max_new_tokens=12) == neutral
    assert sampled == generate(model, tokenizer, PROMPTS, max_new_tokens=12, do_sample=True, seed=1)
    assert model.generation_config is own


def test_a_seed_fixes_the_samples_and_leaves_the_global_state_alone(model, tokenizer):
    options: dict[str, Any] = {"max_new_tokens": 12, "do_sample": True}
    state = torch.get_rng_state()
    first = generate(model, tokenizer, PROMPTS, seed=3, **options)
    assert torch.equal(torch.get_rng_state(), state)
    assert generate(model, tokenizer, PROMPTS, seed=3, **options) == first
    assert generate(model, tokenizer, PROMPTS, seed=4, **options) != first


def test_a_low_temperature_and_a_short_list_are_greedy(model, tokenizer):
    cold = generate(
        model, tokenizer, PROMPTS, max_new_tokens=6, do_sample=True, temperature=1e-4, seed=0
    )
    one = generate(model, tokenizer, PROMPTS, max_new_tokens=6, do_sample=True, top_k=1, seed=0)
    assert cold == one == generate(model, tokenizer, PROMPTS, max_new_tokens=6)


@pytest.mark.parametrize("fails", [False, True])
def test_training_flags_and_tokenizer_stay_as_they_were(model, tokenizer, monkeypatch, fails):
    model.train()
    model.model.layers[0].eval()  # a frozen part that someone keeps in eval mode
    before = [module.training for module in model.modules()], tokenizer.padding_side
    seen = []

    def spy(*args: Any, **kwargs: Any) -> Any:
        seen.append((model.training, torch.is_grad_enabled()))
        if fails:
            raise RuntimeError("out of memory")
        return generated(*args, **kwargs)

    generated = model.generate
    monkeypatch.setattr(model, "generate", spy)
    if fails:
        with pytest.raises(RuntimeError):
            generate(model, tokenizer, ["a"], max_new_tokens=2)
    else:
        generate(model, tokenizer, ["a"], max_new_tokens=2)
    assert seen == [(False, False)]
    assert ([module.training for module in model.modules()], tokenizer.padding_side) == before
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", init_lora_weights=False),
        PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
        PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
    ],
    ids=["lora", "prompt", "prefix"],
)
def test_peft_models_answer_batched_as_one_by_one(tokenizer, config):
    torch.manual_seed(5)
    plain = generate(small_model(), tokenizer, PROMPTS, max_new_tokens=8)
    model = get_peft_model(small_model(), config)
    torch.nn.init.normal_(next(p for p in model.parameters() if p.requires_grad), std=2.0)
    together = generate(model, tokenizer, PROMPTS, max_new_tokens=8)
    assert together == [
        generate(model, tokenizer, [prompt], max_new_tokens=8)[0] for prompt in PROMPTS
    ]
    assert together != plain
    assert model.training


def test_a_prompt_without_tokens_is_named(model, tokenizer):
    with pytest.raises(DataError, match="prompt 1 is empty"):
        generate(model, tokenizer, ["a", ""])


def test_a_bare_string_is_not_taken_for_a_list_of_letters(model, tokenizer):
    with pytest.raises(DataError, match="list of prompts"):
        generate(model, tokenizer, "Who bakes?")


def test_no_prompts_give_no_answers(model, tokenizer):
    assert generate(model, tokenizer, []) == []


# --- options -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -0.1}, {"top_p": 0.0}, {"top_p": 1.1}, {"top_k": -1}, {"stop": [""]},
        {"max_new_tokens": 0}, {"repetition_penalty": 0.0}, {"stop": ["a", 1]},
    ],
    ids=str,
)  # fmt: skip
def test_an_option_without_a_meaning_is_named(model, tokenizer, options):
    with pytest.raises(RecipeError, match=next(iter(options))):
        generate(model, tokenizer, ["a"], **options)


def test_temperature_zero_is_greedy(model, tokenizer):
    cold = generate(model, tokenizer, PROMPTS, max_new_tokens=6, do_sample=True, temperature=0)
    assert cold == generate(model, tokenizer, PROMPTS, max_new_tokens=6)


def test_an_adapter_answers_by_name_and_the_model_stays_as_it_was(tokenizer):
    plain = generate(small_model(), tokenizer, PROMPTS, max_new_tokens=8)
    config = LoraConfig(target_modules="all-linear", init_lora_weights=False)
    model = get_peft_model(small_model(), config, adapter_name="one")
    model.add_adapter("two", config)
    before = model.active_adapter, [p.requires_grad for p in model.parameters()]
    answers = {
        name: generate(model, tokenizer, PROMPTS, max_new_tokens=8, adapter=name)
        for name in ("base", "two", "one", None)
    }
    assert answers["base"] == plain and answers["one"] == answers[None]
    assert len({str(answer) for answer in answers.values()}) == 3
    assert before == (model.active_adapter, [p.requires_grad for p in model.parameters()])
    with pytest.raises(ModelError, match="base, one, two"):
        generate(model, tokenizer, ["a"], adapter="three")
    assert generate(small_model(), tokenizer, PROMPTS, max_new_tokens=8, adapter="base") == plain


# --- streams -------------------------------------------------------------------------------------


class Script(LogitsProcessor):
    """Makes model.generate write these ids."""

    def __init__(self, ids: list[int]) -> None:
        self.ids, self.start = ids, 0

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        self.start = self.start or input_ids.shape[1]
        forced = torch.full_like(scores, -torch.inf)
        forced[:, self.ids[input_ids.shape[1] - self.start]] = 0
        return forced


def saying(model: Any, tokenizer: Any, text: str | list[int]) -> Any:
    """The model, which answers this text, a byte a token, and ends its turn."""
    ids = tokenizer(text)["input_ids"] if isinstance(text, str) else text
    plain, ids = type(model).generate, [*ids, tokenizer.eos_token_id]
    model.generate = lambda **options: plain(model, logits_processor=[Script(ids)], **options)
    return model


@pytest.mark.parametrize("sampled", [False, True])
def test_the_pieces_joined_are_the_answer_of_generate(model, tokenizer, sampled):
    options: dict[str, Any] = {"max_new_tokens": 20, "do_sample": sampled, "seed": 1}
    for text in PROMPTS:
        for prompt in (text, [{"role": "user", "content": text}]):
            pieces = list(stream(model, tokenizer, prompt, **options))
            assert "".join(pieces) == generate(model, tokenizer, [prompt], **options)[0]
            assert "" not in pieces


def test_a_piece_never_holds_half_a_character(model, tokenizer):
    text = "你好，世界！👍🏽 café ∑ 🏳️‍🌈"
    pieces = list(stream(saying(model, tokenizer, text), tokenizer, "a", max_new_tokens=99))
    assert pieces == list(text)


def test_half_a_character_at_the_limit_is_left_out(model, tokenizer):
    answer = stream(saying(model, tokenizer, "好👍"), tokenizer, "a", max_new_tokens=5)
    assert list(answer) == ["好"] and answer.finish_reason == "length"
    assert generate(model, tokenizer, ["a"], max_new_tokens=5) == ["好"]


def test_a_character_that_is_really_broken_does_not_hold_the_rest_back(model, tokenizer):
    ids = [*tokenizer("👍")["input_ids"][:2], *tokenizer("ab")["input_ids"]]
    saying(model, tokenizer, ids)
    assert "".join(stream(model, tokenizer, "a", max_new_tokens=9)) == "\ufffdab"


def test_white_space_around_an_answer_is_stripped_as_generate_does(model, tokenizer):
    prompt = [{"role": "user", "content": "a"}]
    saying(model, tokenizer, " \n one\n\n two \n ")
    answer = stream(model, tokenizer, prompt, max_new_tokens=99)
    assert "".join(answer) == "one\n\n two" == chat(model, tokenizer, prompt, max_new_tokens=99)
    assert answer.finish_reason == "stop"


def test_stop_texts_never_leak_whatever_tokens_they_come_in(model, tokenizer):
    """A byte a token: every stop text comes in parts, and many begin without being finished."""
    rng = random.Random(0)
    for _ in range(40):
        text = "".join(rng.choices("ab\n好", k=14))
        stop = ["".join(rng.choices("ab\n好", k=rng.randint(1, 4))) for _ in range(2)]
        ends = [text.find(s) + len(s) for s in stop if s in text]
        written = text[: min(ends, default=len(text))]
        expected = written[: min((written.find(s) for s in stop if s in written), default=None)]
        fresh = saying(small_model(), tokenizer, text)
        options: dict[str, Any] = {"stop": stop, "max_new_tokens": 60}
        answer = stream(fresh, tokenizer, "a", **options)
        assert "".join(answer) == expected == generate(fresh, tokenizer, ["a"], **options)[0]
        assert answer.finish_reason == "stop"
        assert answer.new_tokens <= len(written.encode()) + 1


def test_a_stop_text_ends_each_row_of_a_batch_on_its_own(model, tokenizer):
    whole = generate(model, tokenizer, PROMPTS, max_new_tokens=12)
    stop = [whole[0][2], whole[3][5]]
    cut = generate(model, tokenizer, PROMPTS, max_new_tokens=12, stop=stop)
    assert cut == [
        text[: min((text.find(s) for s in stop if s in text), default=None)] for text in whole
    ]
    assert cut != whole


def test_counts_and_the_reason_of_the_end(model, tokenizer):
    answer = stream(saying(model, tokenizer, "abc"), tokenizer, "a", max_new_tokens=9)
    assert (answer.finish_reason, "".join(answer)) == (None, "abc")
    assert (answer.finish_reason, answer.prompt_tokens, answer.new_tokens) == ("stop", 1, 4)
    short = stream(model, tokenizer, "a", max_new_tokens=3)
    assert "".join(short) == "abc" and (short.finish_reason, short.new_tokens) == ("length", 3)


def test_an_error_of_the_model_reaches_the_reader(model, tokenizer, monkeypatch):
    model.train()
    monkeypatch.setattr(model.model, "forward", lambda **_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(stream(model, tokenizer, "a"))
    assert model.training and not turn.locked()


class Steps:
    """Counts the forward passes of a model, each `pause` seconds longer than it is."""

    def __init__(self, model: Any, pause: float = 0) -> None:
        self.count, self.forward, self.pause = 0, model.model.forward, pause
        model.model.forward = self

    def __call__(self, *args: Any, **options: Any) -> Any:
        self.count += 1
        time.sleep(self.pause)
        return self.forward(*args, **options)


def test_closing_ends_generation_and_leaves_the_model_at_rest(model, tokenizer):
    steps = Steps(saying(model, tokenizer, "a" * 250).train())
    answer = stream(model, tokenizer, "a", max_new_tokens=250)
    assert next(answer) == "a"
    answer.close()
    assert model.training and not turn.locked() and answer.finish_reason is None
    done = steps.count
    assert done < 250 and set(answer) <= {"a"}
    time.sleep(0.02)
    assert steps.count == done


def test_a_loop_that_is_left_ends_generation(model, tokenizer):
    steps = Steps(saying(model, tokenizer, "a" * 250))
    for _ in stream(model, tokenizer, "a", max_new_tokens=250):
        break
    with turn:
        assert steps.count < 250


def test_answers_beside_an_open_stream_are_right(model, tokenizer):
    """Both set the model's own settings and put them back: in turns, or they get mixed up."""
    own = model.generation_config
    alone = generate(model, tokenizer, PROMPTS, max_new_tokens=12)
    answer = stream(model, tokenizer, "Wo", do_sample=True, seed=2, max_new_tokens=60)
    first = next(answer)
    found: list[Any] = []
    threads = [
        threading.Thread(
            target=lambda: found.append(generate(model, tokenizer, PROMPTS, max_new_tokens=12))
        )
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    pieces = first + "".join(answer)
    for thread in threads:
        thread.join()
    assert found == [alone] * 3
    assert pieces == generate(
        model, tokenizer, ["Wo"], do_sample=True, seed=2, max_new_tokens=60
    )[0]  # fmt: skip
    assert model.generation_config is own


def test_the_context_of_the_model_is_the_limit(model, tokenizer):
    with pytest.raises(DataError, match="has 256 tokens, and the model reads 256"):
        stream(model, tokenizer, "a" * 256)
    answer = stream(model, tokenizer, "a" * 250, max_new_tokens=50, stop="no such text")
    list(answer)
    assert answer.new_tokens <= 6


# --- thoughts ------------------------------------------------------------------------------------

THINKING = [
    ("Two.", False, ("", "Two.")),
    ("  <think>\n1 + 1\n</think>\n\nTwo.", False, ("1 + 1", "Two.")),
    ("1 + 1\n</think>\n\nTwo.", True, ("1 + 1", "Two.")),
    ("<think>1 + 1", False, ("1 + 1", "")),
    ("<think></think>Two </think>?", False, ("", "Two </think>?")),
    ("a <think> b </think>", False, ("", "a <think> b </think>")),
    ("<thinker> is no tag", False, ("", "<thinker> is no tag")),
    ("想一想</think>二", True, ("想一想", "二")),
]


@pytest.mark.parametrize(("text", "opened", "parts"), THINKING)
def test_thoughts_are_told_from_the_answer(text, opened, parts):
    assert split_thoughts(text, opened=opened) == parts


@pytest.mark.parametrize(("text", "opened", "parts"), THINKING)
def test_while_an_answer_grows_nothing_shown_is_taken_back(text, opened, parts):
    for size in range(len(text)):
        shown = split_thoughts(text[:size], opened=opened, whole=False)
        assert parts[0].startswith(shown[0]) and parts[1].startswith(shown[1]), text[:size]


def test_a_prompt_that_opens_the_thoughts_is_seen(model, tokenizer):
    assert stream(model, tokenizer, "Q <think>\n", max_new_tokens=1).opened
    assert not stream(model, tokenizer, "Q </think>\n", max_new_tokens=1).opened
