"""GGUF files: every tensor is what was written, and transformers' own reader answers alike."""

import json
import shutil

import gguf as library
import numpy as np
import pytest
import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)
from transformers.modeling_gguf_pytorch_utils import LlamaTensorProcessor
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

import ftlab
from ftlab import gguf
from ftlab.export import distance, logits

TINY = str(ftlab.data_dir() / "tiny")
SMALL = {
    "vocab_size": 2100, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
    "initializer_range": 0.1,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
}  # fmt: skip
CONFIGS = {
    "qwen3": Qwen3Config(**SMALL, head_dim=32, tie_word_embeddings=True),
    "qwen2": Qwen2Config(**SMALL, tie_word_embeddings=False),
    "llama": LlamaConfig(**SMALL, tie_word_embeddings=False, attention_bias=True),
    "llama3": LlamaConfig(**SMALL, tie_word_embeddings=True, rope_parameters=LLAMA3),
}


def stored(folder, config):
    """A random model, its biases and norms random too, with the tiny tokenizer."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    for weight in model.parameters():
        if weight.ndim == 1:
            weight.data += 0.3 * torch.randn_like(weight)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(TINY).save_pretrained(folder)
    return str(folder)


def read(folder):
    return library.GGUFReader(folder / gguf.FILE)


def value(reader, key):
    return reader.fields[key].contents()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The shipped model in each GGUF format."""
    place = tmp_path_factory.mktemp("gguf")
    return {name: ftlab.export("tiny", place / name, format=name) for name in gguf.TYPES}


# What comes out ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONFIGS)
def test_transformers_reads_the_same_model_back(tmp_path, name, tiny):
    source = stored(tmp_path / "model", CONFIGS[name])
    ftlab.export(source, tmp_path / "out", format="gguf_f16")
    model = AutoModelForCausalLM.from_pretrained(source)
    again = AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", gguf_file=gguf.FILE, config=AutoConfig.from_pretrained(source)
    )
    for weight in model.parameters():
        weight.data = weight.data.half().float() if weight.ndim > 1 else weight.data
    assert distance(logits(model, tiny[1]), logits(again, tiny[1])) < 1e-5


def test_the_configuration_is_in_the_file(tmp_path):
    source = stored(tmp_path / "model", CONFIGS["qwen3"])
    ftlab.export(source, tmp_path / "out", format="gguf_f16")
    reader = read(tmp_path / "out")
    wanted = {
        "general.architecture": "qwen3", "qwen3.context_length": 256, "qwen3.block_count": 2,
        "qwen3.embedding_length": 64, "qwen3.feed_forward_length": 96,
        "qwen3.attention.head_count": 4, "qwen3.attention.head_count_kv": 2,
        "qwen3.attention.key_length": 32, "qwen3.attention.value_length": 32,
        "qwen3.vocab_size": 2100, "qwen3.rope.freq_base": 10000.0,
    }  # fmt: skip
    assert {key: value(reader, key) for key in wanted} == wanted
    assert value(reader, "qwen3.attention.layer_norm_rms_epsilon") == pytest.approx(1e-6)
    assert "output.weight" not in {tensor.name for tensor in reader.tensors}  # tied


def test_scaled_positions_are_in_the_file(tmp_path):
    yarn = {
        "rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0,
        "original_max_position_embeddings": 64,
    }  # fmt: skip
    source = stored(tmp_path / "model", Qwen3Config(**SMALL, head_dim=32, rope_parameters=yarn))
    ftlab.export(source, tmp_path / "out", format="gguf_f16")
    reader, start = read(tmp_path / "out"), "qwen3.rope.scaling"
    assert value(reader, f"{start}.type") == "yarn" and value(reader, f"{start}.factor") == 4
    assert value(reader, f"{start}.original_context_length") == 64
    source = stored(tmp_path / "llama", CONFIGS["llama3"])
    ftlab.export(source, tmp_path / "out2", format="gguf_f16")
    factors = next(t for t in read(tmp_path / "out2").tensors if t.name == "rope_freqs.weight")
    assert factors.data[0] == pytest.approx(1) and factors.data[-1] == pytest.approx(8)


@pytest.mark.parametrize("name", gguf.TYPES)
def test_every_weight_lies_within_what_its_format_allows(files, name, tiny):
    assert gguf.compare(files[name].folder / gguf.FILE, tiny[0]) <= (0 if name[-3:] == "f16" else 1)
    kinds = {t.name: t.tensor_type for t in read(files[name].folder).tensors}
    assert kinds["blk.0.attn_q.weight"] == gguf.TYPES[name]
    assert kinds["output_norm.weight"] == gguf.Type.F32
    if name == "gguf_q4_0":
        assert kinds["token_embd.weight"] == gguf.Type.Q8_0


def test_formats_with_fewer_bits_are_smaller_and_farther_off(files):
    sizes = [files[name].bytes for name in gguf.TYPES]
    distances = [files[name].rounding for name in gguf.TYPES]
    assert sizes == sorted(sizes, reverse=True) and distances == sorted(distances)
    assert files["gguf_q8_0"].same_answers == 3


def test_rows_that_fill_no_block_stay_in_16_bits(tmp_path):
    config = Qwen3Config(**SMALL | {"intermediate_size": 72}, head_dim=32)
    source = stored(tmp_path / "model", config)
    ftlab.export(source, tmp_path / "out", format="gguf_q4_0")
    kinds = {t.name: t.tensor_type for t in read(tmp_path / "out").tensors}
    assert kinds["blk.0.ffn_down.weight"] == gguf.Type.F16
    assert kinds["blk.0.ffn_up.weight"] == gguf.Type.Q4_0


def test_rows_of_queries_are_paired_as_llama_cpp_turns_them():
    """RoPE with the halves paired = RoPE with neighbours paired, on rows in the new order."""
    weight = torch.randn(4 * 8, 16)
    back = LlamaTensorProcessor({})._reverse_permute_weights(
        gguf.interleaved(weight, 4).numpy(), 4, 4
    )
    assert np.array_equal(back, weight.numpy())
    rows = gguf.interleaved(torch.arange(8.0)[:, None], 1)[:, 0]
    assert rows.tolist() == [0, 4, 1, 5, 2, 6, 3, 7]


# The tokenizer ----------------------------------------------------------------------------------


def test_tokens_types_and_merges_are_the_tokenizers(tmp_path, tiny):
    ftlab.export(stored(tmp_path / "m", CONFIGS["qwen3"]), tmp_path / "out", format="gguf_f16")
    reader, tokenizer = read(tmp_path / "out"), tiny[1]
    tokens = value(reader, "tokenizer.ggml.tokens")
    assert tokens[: len(tokenizer)] == tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    assert len(tokens) == 2100 and tokens[-1] == "[PAD2099]"
    kinds = value(reader, "tokenizer.ggml.token_type")
    end, think = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<think>"])
    assert [kinds[end], kinds[think], kinds[5], kinds[2099]] == [3, 4, 1, 5]
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    merges = value(reader, "tokenizer.ggml.merges")
    assert merges == [" ".join(pair) for pair in state["model"]["merges"]]
    assert value(reader, "tokenizer.ggml.eos_token_id") == end
    assert value(reader, "tokenizer.ggml.add_bos_token") is False


def test_the_chat_template_renders_the_same_without_trls_marks(files, tiny):
    text = value(read(files["gguf_f16"].folder), "tokenizer.chat_template")
    assert "generation %" not in text.replace("add_generation_prompt %", "")
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "你好"}]
    render = tiny[1].apply_chat_template
    for turns in (messages, messages[:1]):
        options = {"tokenize": False, "add_generation_prompt": len(turns) == 1}
        assert render(turns, chat_template=text, **options) == render(turns, **options)


def bpe(pre_tokenizer):
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: n for n, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizer
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("gpt-2", None),
        ("qwen2", PRETOKENIZE_REGEX),
        ("llama-bpe", PRETOKENIZE_REGEX.replace(r"\p{N}|", r"\p{N}{1,3}|")),
    ],
)
def test_known_ways_to_split_words_are_named(name, pattern):
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)
    if pattern:
        plain = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), plain])
    tokenizer = bpe(plain)
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    assert gguf._pre_tokenizer(tokenizer, state) == (name, [])


def test_an_unknown_way_to_split_words_is_said_with_an_example(files):
    assert files["gguf_f16"].notes == [
        "note: llama.cpp has no name for how this tokenizer splits words; the file says qwen2, "
        "which gives other tokens for 1 of 4 samples, such as 'two  spaces'."
    ]


@pytest.mark.parametrize("name", ["world_qa", "world_qa_test"])
def test_the_stand_in_splits_the_shipped_questions_and_answers_alike(name, tiny):
    ours, theirs = tiny[1].backend_tokenizer, gguf.split_by("qwen2", tiny[1])
    texts = [m["content"] for row in ftlab.read(name) for m in row["messages"]]
    assert [t for t in texts if ours.encode(t).ids != theirs.encode(t).ids] == []


# Refusals ---------------------------------------------------------------------------------------


def test_other_architectures_are_refused_by_name(tmp_path):
    config = GPT2Config(vocab_size=2100, n_embd=32, n_layer=1, n_head=2)
    source = stored(tmp_path / "gpt2", config)
    with pytest.raises(ftlab.ModelError, match="gpt2: ftlab writes GGUF for qwen3, qwen2, llama"):
        ftlab.export(source, tmp_path / "out", format="gguf_f16")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_sliding_window": True, "sliding_window": 32}, "sliding window"),
        ({"rope_parameters": LLAMA3 | {"rope_type": "dynamic"}}, "rope_type='dynamic'"),
    ],
)
def test_what_gguf_cannot_say_is_refused(changes, message):
    with pytest.raises(ftlab.ModelError, match=message):
        gguf.check(Qwen3Config(**SMALL, **changes))


def test_a_weight_too_large_for_16_bits_is_refused(tmp_path):
    shutil.copytree(TINY, tmp_path / "big")
    model = AutoModelForCausalLM.from_pretrained(TINY)
    model.model.layers[0].mlp.up_proj.weight.data[0, 0] = 1e5
    model.save_pretrained(tmp_path / "big")
    with pytest.raises(ftlab.ModelError, match="blk.0.ffn_up.weight: a weight beyond 65504"):
        ftlab.export(str(tmp_path / "big"), tmp_path / "out", format="gguf_f16")
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_of_words_is_refused(tmp_path):
    stored(tmp_path / "model", CONFIGS["qwen3"])
    words = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    (tmp_path / "model" / "chat_template.jinja").unlink()
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="a").save_pretrained(
        tmp_path / "model"
    )
    with pytest.raises(ftlab.ModelError, match="byte-level BPE tokenizers only"):
        ftlab.export(str(tmp_path / "model"), tmp_path / "out", format="gguf_f16")


@pytest.mark.parametrize("name", gguf.TYPES)
def test_a_value_that_is_another_one_when_read_is_seen(files, name, tiny, tmp_path):
    path = tmp_path / gguf.FILE
    shutil.copy(files[name].folder / gguf.FILE, path)
    tensor = next(t for t in read(tmp_path).tensors if t.name == "blk.3.ffn_down.weight")
    data = bytearray(path.read_bytes())
    data[tensor.data_offset + 1000] ^= 0x55
    path.write_bytes(data)
    with pytest.raises(ftlab.CheckpointError, match="blk.3.ffn_down.weight is not what was writt"):
        gguf.compare(path, tiny[0])
