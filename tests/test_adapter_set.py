"""Several adapters in one model: each answers as alone, and every bad pair is refused."""

import copy
import json
import shutil

import pytest
import torch
from peft import (
    IA3Config,
    LNTuningConfig,
    LoraConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
    get_peft_model,
)
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import ftlab
from ftlab.adapters.combination import METHODS

TINY = str(ftlab.data_dir() / "tiny")
WEIGHTS = "adapter_model.safetensors"
IDS = torch.arange(12).reshape(2, 6) + 300


def plain():
    return AutoModelForCausalLM.from_pretrained(TINY).eval()


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


def by_peft(folder, seed=1, config=None, **changes):
    """An adapter of plain PEFT that changes the answers; its logits."""
    torch.manual_seed(seed)
    options = {"r": 4, "target_modules": ["q_proj", "v_proj"], "init_lora_weights": False}
    config = config or LoraConfig(**{**options, **changes})
    config.task_type = "CAUSAL_LM"
    model = get_peft_model(plain(), copy.deepcopy(config)).eval()
    for name, weight in model.named_parameters():
        if weight.requires_grad and "lora_" not in name:
            weight.data += (1 if "prompt" in name else 0.1) * torch.randn_like(weight)
    model.save_pretrained(folder)
    return logits(model)


def train(folder, tiny, seed=42):
    """An adapter of ftlab, a few steps of it."""
    recipe = ftlab.Recipe(
        max_steps=2, learning_rate=1e-2, per_device_train_batch_size=4, seed=seed,
        output_dir=str(folder), save_steps=1,
    )  # fmt: skip
    rows = ftlab.read("world_qa").take(8)
    return ftlab.train(recipe, rows, model=tiny[0], tokenizer=tiny[1], quiet=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny):
    return train(tmp_path_factory.mktemp("runs") / "run", tiny)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Two LoRA folders of PEFT, and the logits that each gives alone."""
    folder = tmp_path_factory.mktemp("pair")
    return {
        name: (folder / name, by_peft(folder / name, seed)) for name, seed in (("a", 1), ("b", 2))
    }


def both(pair):
    things = ftlab.AdapterSet(plain())
    for name, (folder, _) in pair.items():
        things.add(name, folder)
    return things


# Switching --------------------------------------------------------------------------------------


def test_each_adapter_answers_as_it_does_alone(pair):
    things = both(pair)
    assert things.names == ["a", "b"] and things.active == "a"
    for name in ("b", "a", "b"):
        things.use(name)
        assert things.active == name
        assert torch.equal(logits(things.model), pair[name][1])
    assert not any(weight.requires_grad for weight in things.model.parameters())


KINDS = {
    "dora": LoraConfig(use_dora=True, r=4, target_modules=["q_proj"], init_lora_weights=False),
    "rslora": LoraConfig(use_rslora=True, r=4, target_modules=["q_proj"], init_lora_weights=False),
    "whole": LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["lm_head"]),
    "embedding": LoraConfig(r=4, target_modules=["embed_tokens"], init_lora_weights=False),
    "ia3": IA3Config(target_modules=["v_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "norms": LNTuningConfig(target_modules=["input_layernorm"]),
    "prompt": PromptTuningConfig(num_virtual_tokens=4),
    "prefix": PrefixTuningConfig(num_virtual_tokens=4),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_method_switches_and_off_is_the_base_exactly(kind, tmp_path):
    alone = {name: by_peft(tmp_path / name, n, KINDS[kind]) for n, name in enumerate("xy")}
    base, things = logits(plain()), ftlab.AdapterSet(plain())
    for name in alone:
        things.add(name, tmp_path / name)
    for name in "xyx":
        things.use(name)
        assert torch.allclose(logits(things.model), alone[name], atol=1e-6)
        with things.off():
            assert torch.equal(logits(things.model), base)
    assert not torch.equal(alone["x"], alone["y"]) and not torch.equal(alone["x"], base)
    things.remove("x")
    assert things.active == "y" and torch.allclose(logits(things.model), alone["y"], atol=1e-6)
    things.remove("y")
    assert things.active is None and things.names == []
    assert torch.equal(logits(things.model), base)
    assert not any("lora" in name for name, _ in things.model.named_modules())


def test_after_the_last_one_is_gone_another_can_come(pair):
    things = both(pair)
    things.remove("b"), things.remove("a")
    things.add("b", pair["b"][0])
    assert things.active == "b" and torch.equal(logits(things.model), pair["b"][1])


def test_off_holds_also_after_an_error_and_without_adapters(pair):
    things = both(pair)
    with pytest.raises(ZeroDivisionError), things.off():
        raise ZeroDivisionError
    assert torch.equal(logits(things.model), pair["a"][1])
    with ftlab.AdapterSet(plain()).off():
        pass


def test_replace_puts_another_in_its_place_and_leaves_the_others(pair, tmp_path):
    """PEFT's hot-swap of "style" wrote zeros into "style2": it looks for the name inside names."""
    third = by_peft(tmp_path / "third", seed=3, r=2)
    things = ftlab.AdapterSet(plain())
    things.add("style", pair["a"][0])
    things.add("style2", pair["b"][0])
    assert things.replace("style", tmp_path / "third").rank == 2
    assert things.active == "style" and sorted(things.names) == ["style", "style2"]
    assert torch.equal(logits(things.model), third)
    things.use("style2")
    assert torch.equal(logits(things.model), pair["b"][1])


def test_replace_by_a_damaged_one_changes_nothing(pair, tmp_path):
    shutil.copytree(pair["b"][0], tmp_path / "cut")
    (tmp_path / "cut" / WEIGHTS).write_bytes((pair["b"][0] / WEIGHTS).read_bytes()[:-1])
    things = both(pair)
    with pytest.raises(ftlab.ModelError, match="damaged"):
        things.replace("a", tmp_path / "cut")
    assert things.names == ["a", "b"] and torch.equal(logits(things.model), pair["a"][1])


# One adapter for each prompt --------------------------------------------------------------------

QUESTIONS = [
    [{"role": "user", "content": text}]
    for text in ("Where does Ada Quill live?", "3 + 4 =", "你好", "Who is the baker of Tidewick?")
]


@pytest.mark.parametrize("kind", ["lora", "dora", "whole", "prompt"])
def test_every_prompt_of_a_batch_has_its_own_adapter(kind, pair, tiny, tmp_path):
    things = ftlab.AdapterSet(plain())
    for n, name in enumerate("ab"):
        if kind != "lora":
            by_peft(tmp_path / name, n, KINDS[kind])
        things.add(name, pair[name][0] if kind == "lora" else tmp_path / name)
    options = {"max_new_tokens": 8}
    alone = {}
    for name in "ab":
        things.use(name)
        alone[name] = ftlab.generate(things.model, tiny[1], QUESTIONS, **options)
    with things.off():
        alone[None] = ftlab.generate(things.model, tiny[1], QUESTIONS, **options)
    names = ["b", None, "a", "b"]
    found = things.generate(tiny[1], QUESTIONS, names, **options)
    assert found == [alone[name][row] for row, name in enumerate(names)]
    assert things.active == "b" and len({tuple(answers) for answers in alone.values()}) == 3


def test_lora_rows_share_one_batch(pair, tiny, monkeypatch):
    things, calls = both(pair), []
    inner = things.model.generate
    monkeypatch.setattr(
        things.model, "generate", lambda **batch: calls.append(batch) or inner(**batch)
    )
    things.generate(tiny[1], QUESTIONS[:2], ["a", None], max_new_tokens=2)
    assert len(calls) == 1 and sorted(calls[0]["adapter_names"]) == ["__base__", "a"]


def test_an_adapter_for_each_prompt_must_be_there(pair, tiny):
    things = both(pair)
    with pytest.raises(ftlab.ModelError, match="2 prompts, 1 adapter names"):
        things.generate(tiny[1], QUESTIONS[:2], ["a"])
    with pytest.raises(ftlab.ModelError, match="'c': no adapter"):
        things.generate(tiny[1], QUESTIONS[:1], ["c"])


# Combining --------------------------------------------------------------------------------------


def change(things, name):
    """What an adapter adds to each weight, all layers in one vector."""
    layers = (m for m in things.model.modules() if hasattr(m, "get_delta_weight"))
    return torch.cat([layer.get_delta_weight(name).detach().flatten() for layer in layers])


def relative(a, b):
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("method", METHODS)
def test_the_distance_from_the_weighted_sum_is_the_one_measured(method, pair):
    things = both(pair)
    density = None if method in ("cat", "svd", "linear") else 0.5
    found = things.combine("c", {"a": 1.0, "b": -0.5}, method=method, density=density)
    wanted = change(things, "a") - 0.5 * change(things, "b")
    assert found == pytest.approx(relative(change(things, "c"), wanted), abs=1e-5)
    assert things.active == "a" and things.cards["c"].rank == (8 if method == "cat" else 4)


def test_the_exact_methods_are_exact(pair, tmp_path):
    things = both(pair)
    assert things.combine("c", {"a": 0.7, "b": 0.6}) < 1e-5
    assert things.combine("d", {"a": 0.7, "b": 0.6}, method="svd", rank=8) < 1e-5
    assert things.combine("e", {"a": 0.7}, method="linear") < 1e-5
    assert things.combine("f", {"a": 0.7, "b": 0.6}, method="linear") > 0.1  # A of a meets B of b
    by_peft(tmp_path / "wide", r=2, target_modules=["q_proj", "o_proj", "embed_tokens"])
    things.add("wide", tmp_path / "wide")
    assert things.combine("g", {"a": 1, "wide": 1}) < 1e-5
    assert things.cards["g"].rank == 6 and "o_proj" in things.cards["g"].targets


def test_rank_stabilized_adapters_keep_their_strength(tmp_path):
    """PEFT leaves use_rslora on and sets alpha to the rank: the sum came out sqrt(rank) times."""
    for n, name in enumerate("ab"):
        by_peft(tmp_path / name, n, use_rslora=True, lora_alpha=6)
    things = ftlab.AdapterSet(plain())
    for name in "ab":
        things.add(name, tmp_path / name)
    assert things.combine("c", {"a": 1, "b": 1}) < 1e-5
    assert relative(change(things, "c"), change(things, "a") + change(things, "b")) < 1e-5
    assert things.model.peft_config["a"].use_rslora


def test_dare_repeats_with_its_seed_and_leaves_the_global_one(pair):
    things, weights = both(pair), {"a": 1.0, "b": 1.0}
    torch.manual_seed(5)
    for name, seed in (("c", 0), ("d", 0), ("e", 1)):
        things.combine(name, weights, method="dare_linear_svd", density=0.5, seed=seed)
    after, _ = torch.rand(3), torch.manual_seed(5)
    assert torch.equal(after, torch.rand(3))
    assert torch.equal(change(things, "c"), change(things, "d"))
    assert not torch.equal(change(things, "c"), change(things, "e"))


def cannot(things, message, weights, **options):
    names, before = things.names, logits(things.model)
    with pytest.raises(ftlab.ModelError, match=message):
        things.combine("new", weights, **options)
    assert things.names == names and list(things.model.peft_config) == names
    assert torch.equal(logits(things.model), before)


def test_what_cannot_be_combined_is_refused(pair, tmp_path):
    things = both(pair)
    for name, changes in {
        "wide": {"r": 8},
        "dora": {"use_dora": True},
        "whole": {"modules_to_save": ["lm_head"]},
        "one": {"layers_to_transform": [0]},
    }.items():
        by_peft(tmp_path / name, **changes)
        things.add(name, tmp_path / name)
    same = {"a": 1, "b": 1}
    cannot(
        things, "needs equal ranks, and these are a 4, wide 8", {"a": 1, "wide": 1}, method="linear"
    )
    cannot(things, "'dora' was trained with use_dora", {"a": 1, "dora": 1})
    cannot(things, "'whole' was trained with modules_to_save", {"whole": 1})
    cannot(things, "other layers", {"one": 1, "a": 1})
    cannot(things, "no adapter has a weight other than 0", {"a": 0.0, "b": 0})
    cannot(things, "no adapter has a weight other than 0", {})
    cannot(things, "the weight of 'a' is nan", {"a": float("nan"), "b": 1})
    cannot(things, "no adapter of this name.*There are: a, b", {"a": 1, "c": 1})
    cannot(things, "choose from cat, svd.*Did you mean 'ties'", same, method="tiess")
    cannot(things, "density=None: ties needs", same, method="ties")
    cannot(things, "density=1.5", same, method="dare_linear", density=1.5)
    cannot(things, "nothing is left", same, method="ties", density=1e-9)
    cannot(things, "density: the method cat does not use it", same, density=0.5)
    cannot(things, "rank: the method linear does not use it", same, method="linear", rank=2)
    cannot(things, "rank=0", same, method="svd", rank=0)
    cannot(things, "rank=1000", same, method="svd", rank=1000)
    with pytest.raises(ftlab.ModelError, match="the set has an adapter of this name"):
        things.combine("a", same)
    things.add("again", pair["a"][0])
    cannot(things, "cancel out", {"a": 1, "again": -1})


def test_only_lora_can_be_combined(tmp_path):
    things = ftlab.AdapterSet(plain())
    by_peft(tmp_path / "ia3", config=KINDS["ia3"])
    things.add("ia3", tmp_path / "ia3")
    with pytest.raises(ftlab.ModelError, match="'ia3' is a IA3 adapter"):
        things.combine("new", {"ia3": 1})


# Saving -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["both", "default"])
def test_a_combined_adapter_loads_in_ftlab_in_peft_and_merges(name, run, tiny, tmp_path):
    second = train(tmp_path / "second", tiny, seed=7)
    things = ftlab.AdapterSet(ftlab.load("tiny")[0])
    things.add("a", run.folder)
    things.add("b", second.folder)
    things.combine(name, {"a": 0.5, "b": 0.5})
    things.save(name, tmp_path / "saved", tiny[1])
    things.use(name)
    expected = logits(things.model)
    assert torch.equal(logits(PeftModel.from_pretrained(plain(), tmp_path / "saved")), expected)
    assert torch.equal(logits(ftlab.load("tiny", adapter=tmp_path / "saved")[0]), expected)
    report = ftlab.merge(tmp_path / "saved", tmp_path / "merged")
    assert report.notes == [] and report.difference < 1e-4
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert torch.allclose(logits(merged), expected, atol=1e-4)
    with pytest.raises(ftlab.CheckpointError, match="exists already"):
        things.save(name, tmp_path / "saved")
    again = ftlab.AdapterSet(plain())
    assert again.add("a", tmp_path / "saved").base_recorded


def test_nothing_is_left_of_a_save_that_fails(pair, tmp_path, monkeypatch):
    things = both(pair)
    monkeypatch.setattr(things.model, "save_pretrained", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        things.save("a", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


# Folders of other tools -------------------------------------------------------------------------


class Canary:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was read",))


def of_llamafactory(folder, pair):
    """The files that LLaMA-Factory leaves beside an adapter (listed in QwenLM/Qwen#940)."""
    shutil.copytree(pair["a"][0], folder)
    for name in ("all_results.json", "train_results.json", "trainer_state.json"):
        (folder / name).write_text("{}")
    (folder / "trainer_log.jsonl").write_text('{"current_steps": 1, "total_steps": 2}\n')
    torch.save(Canary(), folder / "training_args.bin")
    return folder


def of_swift(folder, pair):
    """ms-swift's output/vN-TIME/checkpoint-N; additional_config.json as in swift/tuners/peft.py."""
    shutil.copytree(pair["a"][0], folder / "checkpoint-20")
    extra = {"lora_dtype": None, "lorap_lr_ratio": None, "lorap_emb_lr": 1e-6}
    (folder / "checkpoint-20" / "additional_config.json").write_text(json.dumps(extra))
    args = json.dumps({"model": "tiny", "train_type": "lora", "torch_dtype": "float32"})
    (folder / "checkpoint-20" / "args.json").write_text(args)
    (folder / "args.json").write_text(args)
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"):
        torch.save(Canary(), folder / "checkpoint-20" / name)
    return folder / "checkpoint-20"


@pytest.mark.parametrize(
    ("tool", "make"), [("LLaMA-Factory", of_llamafactory), ("ms-swift", of_swift)]
)
def test_folders_of_other_tools_load_and_their_pickles_are_not_read(tool, make, pair, tmp_path):
    folder = make(tmp_path / "out", pair)
    things = ftlab.AdapterSet(plain())
    card = things.add("theirs", folder)
    assert card.made_by == tool and torch.equal(logits(things.model), pair["a"][1])
    assert torch.equal(logits(ftlab.load("tiny", adapter=folder)[0]), pair["a"][1])


def test_an_adapter_of_ftlab_loads_in_plain_peft(run, tmp_path):
    things = ftlab.AdapterSet(plain())
    things.add("ours", run.folder)
    expected = logits(run.model.eval())
    assert torch.equal(logits(PeftModel.from_pretrained(plain(), run.folder)), expected)
    assert torch.equal(logits(things.model), expected)
    things.add("step", run.folder / "checkpoint-1")
    assert torch.equal(logits(things.model), expected)


# Cards ------------------------------------------------------------------------------------------


def test_all_adapters_below_a_folder_are_described(run, pair, tmp_path):
    shutil.copytree(run.folder, tmp_path / "run")
    shutil.copytree(run.folder / "checkpoint-2", tmp_path / "run" / "checkpoint-10")
    of_swift(tmp_path / "swift", pair)
    by_peft(tmp_path / "prompt", config=KINDS["prompt"])
    by_peft(tmp_path / "dora", use_dora=True, lora_alpha=32, modules_to_save=["lm_head"])
    cards = ftlab.describe_adapters(tmp_path)
    assert [card.name for card in cards] == [
        "dora", "prompt", "run", "run/checkpoint-1", "run/checkpoint-2", "run/checkpoint-10",
        "swift/checkpoint-20",
    ]  # fmt: skip
    dora, prompt, ours = cards[:3]
    assert (dora.method, dora.rank, dora.alpha) == ("DoRA", 4, 32)
    assert dora.targets == "q_proj, v_proj; whole: lm_head" and dora.made_by.startswith("PEFT 0")
    assert prompt.targets == "4 virtual tokens" and prompt.parameters == 4 * 128
    trainable = ftlab.trainable_parameters(run.model)[0]
    assert ours.parameters == trainable and ours.bytes == (run.folder / WEIGHTS).stat().st_size
    assert ours.base_recorded and ours.made_by == "ftlab" and not dora.base_recorded
    assert "not recorded" in str(cards) and len(str(cards).splitlines()) == 8
    assert ftlab.describe_adapters(run.folder)[0].name == run.folder.name


def test_a_folder_that_cannot_be_loaded_is_listed_with_its_fault(pair, tmp_path):
    for name in ("cut", "pickle", "json"):
        shutil.copytree(pair["a"][0], tmp_path / name)
    (tmp_path / "cut" / WEIGHTS).write_bytes((pair["a"][0] / WEIGHTS).read_bytes()[:-1])
    (tmp_path / "pickle" / WEIGHTS).rename(tmp_path / "pickle" / "adapter_model.bin")
    (tmp_path / "json" / "adapter_config.json").write_text("{")
    faults = {card.name: card.fault for card in ftlab.describe_adapters(tmp_path)}
    assert "damaged" in faults["cut"] and "no pickle" in faults["pickle"]
    assert "not readable as JSON" in faults["json"]


def test_a_missing_folder_is_named_with_its_neighbor(tmp_path):
    (tmp_path / "runs").mkdir()
    with pytest.raises(ftlab.ModelError, match="no such folder. Did you mean 'runs'"):
        ftlab.describe_adapters(tmp_path / "run")
    assert ftlab.describe_adapters(tmp_path / "runs") == []


def test_tables_escape_what_a_folder_says(pair, tmp_path):
    shutil.copytree(pair["a"][0], tmp_path / "<b>")
    path = tmp_path / "<b>" / "adapter_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"base_model_name_or_path": "<script>x"}))
    things = ftlab.AdapterSet(plain())
    things.add("a", tmp_path / "<b>")
    for html in (ftlab.describe_adapters(tmp_path)._repr_html_(), things._repr_html_()):
        assert "<script" not in html and "<b>" not in html and "&lt;script&gt;x" in html
    assert "active: a" in repr(things)


# Refusals ---------------------------------------------------------------------------------------


def refused(things, folder, message, name="new", error=ftlab.ModelError):
    """One sentence, and the set answers as before."""
    names, active, before = things.names, things.active, logits(things.model)
    with pytest.raises(error, match=message):
        things.add(name, folder)
    assert (things.names, things.active) == (names, active)
    assert torch.equal(logits(things.model), before)
    things.model.eval()


@pytest.fixture(params=["first", "second"])
def things(request, pair):
    """A set that the adapter would be the first or second of."""
    things = ftlab.AdapterSet(plain())
    if request.param == "second":
        things.add("a", pair["a"][0])
    return things


def test_damaged_folders_are_refused(things, pair, run, tmp_path):
    for name in ("cut", "empty", "nan", "pickle"):
        shutil.copytree(pair["b"][0], tmp_path / name)
    data = (pair["b"][0] / WEIGHTS).read_bytes()
    (tmp_path / "cut" / WEIGHTS).write_bytes(data[:-1])
    (tmp_path / "empty" / WEIGHTS).write_bytes(b"")
    tensors = load_file(pair["b"][0] / WEIGHTS)
    next(iter(tensors.values()))[0, 0] = float("nan")
    save_file(tensors, tmp_path / "nan" / WEIGHTS)
    torch.save(Canary(), tmp_path / "pickle" / "adapter_model.bin")
    (tmp_path / "pickle" / WEIGHTS).unlink()
    refused(things, tmp_path / "cut", "damaged")
    refused(things, tmp_path / "empty", "damaged")
    refused(things, tmp_path / "nan", "NaN or infinite")
    refused(things, tmp_path / "pickle", "no pickle files")
    refused(things, tmp_path / "nowhere", "no adapter here")
    shutil.copytree(run.folder, tmp_path / "flip")
    data = bytearray((run.folder / WEIGHTS).read_bytes())
    data[-5] ^= 1
    (tmp_path / "flip" / WEIGHTS).write_bytes(data)
    refused(things, tmp_path / "flip", "changed or damaged", error=ftlab.CheckpointError)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("peft_type", "LORE", "whose peft_type"),
        ("r", "four", "a value that PEFT cannot use"),
        ("rank_pattern", 3, "a value that PEFT cannot use"),
        ("modules_to_save", 7, "a value that PEFT cannot use"),
        ("target_modules", ["nowhere"], "does not fit this base model"),
        ("layers_to_transform", [99], "does not fit this base model"),
        ("kasa_config", {}, "changes the base's weights"),
    ],
)
def test_faulty_configurations_are_refused(key, value, message, things, pair, tmp_path):
    shutil.copytree(pair["b"][0], tmp_path / "bad")
    path = tmp_path / "bad" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    assert len(ftlab.describe_adapters(tmp_path)) == 1
    refused(things, tmp_path / "bad", message)


def test_adapters_of_another_base_are_refused(pair, run, tmp_path):
    from tests.throwaway import small_model

    things = ftlab.AdapterSet(plain())
    things.model.model.norm.weight.data[0] += 1e-3
    refused(things, run.folder, "trained on other weights")
    small = ftlab.AdapterSet(small_model(vocab_size=2048))
    refused(small, pair["a"][0], "does not fit this base model")
    renamed = {
        n.replace("layers.0", "stack.0"): t for n, t in load_file(pair["a"][0] / WEIGHTS).items()
    }
    shutil.copytree(pair["a"][0], tmp_path / "renamed")
    save_file(renamed, tmp_path / "renamed" / WEIGHTS)
    refused(things, tmp_path / "renamed", "tensors are missing")


def test_an_adapter_that_would_change_the_base_is_refused(things, tmp_path):
    """PEFT takes the principal part out of the base when such an adapter is loaded, under the
    feet of the others."""
    by_peft(tmp_path / "pissa", init_lora_weights="pissa")
    refused(things, tmp_path / "pissa", "changes the base's weights")


def test_one_set_holds_one_method(pair, tmp_path):
    by_peft(tmp_path / "ia3", config=KINDS["ia3"])
    refused(both(pair), tmp_path / "ia3", "a IA3 adapter cannot join 'a', a LORA adapter")


def test_an_adapter_with_more_tokens_does_not_join_others(pair, tiny, tmp_path):
    model = plain()
    model.resize_token_embeddings(2050, mean_resizing=False)
    config = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"])
    get_peft_model(model, config).save_pretrained(tmp_path / "more")
    refused(both(pair), tmp_path / "more", "2050 tokens, the model 2048")


@pytest.mark.parametrize(
    "name", ["a", "", "x y", "a.b", "../x", "__base__", "base", "keys", "training"]
)
def test_names_that_are_taken_or_impossible_are_refused(name, pair):
    refused(both(pair), pair["b"][0], "of this name|no name for an adapter", name)


def test_unknown_names_come_with_the_nearest(pair):
    things = ftlab.AdapterSet(plain())
    things.add("style", pair["a"][0])
    for call in (
        things.use,
        things.remove,
        lambda name: things.replace(name, pair["b"][0]),
        lambda name: things.save(name, "out"),
    ):
        with pytest.raises(ftlab.ModelError, match="'stile': no adapter.*Did you mean 'style'"):
            call("stile")


def test_a_model_with_an_adapter_is_no_base(run):
    with pytest.raises(ftlab.ModelError, match="has an adapter already"):
        ftlab.AdapterSet(run.model)
