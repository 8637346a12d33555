"""Generation: the answers are the model's own, and nothing is left changed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from throwaway import small_model, small_tokenizer
from transformers import GenerationConfig

from ftlab.chat import prompt_ids
from ftlab.errors import DataError
from ftlab.generate import chat, generate, stop_ids

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
        )
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
