"""The calculator: its bytes are those of a real step, its FLOPs the published formulae's."""

import json
from pathlib import Path
from threading import Event

import pytest
import torch

import ftlab
from ftlab import cli, memory
from ftlab.adapters import adapt
from ftlab.calculator import cards, prediction
from ftlab.calculator.advice import Stopped
from ftlab.calculator.ledger import Ledger
from ftlab.calculator.shapes import read_shapes
from ftlab.calculator.step import Plan, decoder_layers, stepper, take_step

ROWS, LENGTH = 4, 64
SMALL = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 6,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 1000,
    "max_position_embeddings": 512, "tie_word_embeddings": False,
}  # fmt: skip
WAYS = [
    {"finetuning_type": "full"},
    {"finetuning_type": "full", "gradient_checkpointing": True},
    {"finetuning_type": "full", "gradient_accumulation_steps": 2},
    {"finetuning_type": "freeze"},
    {"finetuning_type": "freeze", "freeze_trainable_layers": -1},
    {},
    {"stage": "pt"},
    {"gradient_checkpointing": True},
    {"use_dora": True},
    {"finetuning_type": "bottleneck", "bottleneck_size": 16},
    {"finetuning_type": "prefix_tuning"},
]


def names(way):
    return ",".join(str(value) for value in way.values()) or "lora"


def recipe(**keys):
    return ftlab.Recipe(per_device_train_batch_size=ROWS, cutoff_len=LENGTH, **keys)


def real(chosen, model):
    """The trace of a real step, with real tensors, under the same ledger."""
    ledger = Ledger(model.config.vocab_size)
    adapted = adapt(model, chosen)
    own = set(getattr(adapted, "peft_config", {}))
    for name, tensor in [*adapted.named_parameters(), *adapted.named_buffers()]:
        ledger.hold(tensor, "adapters" if own & set(name.split(".")) else "weights")
    adapted.train()
    if chosen.gradient_checkpointing:
        adapted.gradient_checkpointing_enable()
        if own:
            adapted.enable_input_require_grads()
    plan = Plan(ROWS, LENGTH, torch.float32, None, False, chosen.stage == "sft")
    with ledger:
        update = stepper(adapted, chosen, ledger)
        holder, name = decoder_layers(adapted)
        layers = list(range(len(getattr(holder, name))))
        take_step(adapted, layers, update, chosen, plan, ledger)
    return ledger.found()


@pytest.mark.parametrize("way", WAYS, ids=names)
def test_a_real_step_holds_at_its_peak_what_was_predicted(tiny, way):
    """With contents and with all layers: what is extrapolated from two depths is what is there."""
    chosen = recipe(**way)
    predicted = ftlab.estimate(chosen)
    held, operations = real(chosen, tiny[0])
    peaks = {part: sum(n for (p, _), n in held.items() if p == part) for part, _ in held}
    assert predicted.peak == pytest.approx(max(peaks.values()), rel=1e-3)
    for part in ("loss", "optimizer"):
        for component in ("weights", "adapters", "optimizer", "gradients", "logits"):
            found = predicted.trace.held[part, component]
            assert found == pytest.approx(held[part, component], abs=200), (part, component)
    flops = sum(kind.flops * n for kind, n in operations.items())
    assert predicted.flops == pytest.approx(flops * chosen.gradient_accumulation_steps, rel=1e-3)


@pytest.mark.parametrize(
    "way", [w for w in WAYS if "gradient_accumulation_steps" not in w][:6]
    + [{"quantization_bit": 8}, {"quantization_bit": 4, "double_quantization": False}], ids=names,
)  # fmt: skip
def test_what_stays_is_what_memory_counts(way):
    chosen = recipe(**way, pure_bf16=True)
    counted = memory.count("Qwen3-1.7B", chosen)
    parts = ftlab.estimate(chosen, config="Qwen3-1.7B", device="A100").trace.held
    for part in ("weights", "constants", "adapters", "gradients"):
        assert parts["optimizer", part] == counted[part], part
    assert parts["optimizer", "optimizer"] == pytest.approx(counted["optimizer"], rel=1e-3)


def test_qlora_keeps_layers_packed_and_restores_one_at_a_time():
    plain, packed = (
        ftlab.estimate(recipe(quantization_bit=bits), config="Llama-3.1-8B", device="A100")
        for bits in (None, 4)
    )
    saved = plain.parts["weights"] - packed.parts["weights"] - packed.parts["constants"]
    assert saved > 10e9
    largest = 2 * 4096 * 14336
    extra = packed.trace.held["forward, layer 32", "activations"]
    assert extra < plain.trace.held["forward, layer 32", "activations"] + 2 * largest


def formula(config, rank, method, checkpointing):
    """performance.md 2.1: FLOPs a token, from shapes alone."""
    h, layers, f = config.hidden_size, config.num_hidden_layers, config.intermediate_size
    q = h
    k = h // config.num_attention_heads * config.num_key_value_heads
    inside = layers * (2 * h * q + 2 * h * k + 3 * h * f)
    whole = inside + config.vocab_size * h
    attention = 2 * layers * q * config.length
    added = rank * layers * (2 * (h + q) + 2 * (h + k) + 3 * (h + f))
    if method == "full":
        # Recomputing stops at the last input that is kept, so before a layer's last product.
        again = 2 * inside + attention - 2 * layers * h * f
        return 6 * whole + 3 * attention + (again if checkpointing else 0)
    again = 2 * inside + attention + 2 * added
    return 4 * whole + 3 * attention + 6 * added + (again if checkpointing else 0)


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_flops_are_those_of_the_published_formulae(method, checkpointing):
    chosen = ftlab.Recipe(
        finetuning_type=method, gradient_checkpointing=checkpointing, lora_rank=16,
        per_device_train_batch_size=1, cutoff_len=2048,
    )  # fmt: skip
    found = ftlab.estimate(chosen, config="Llama-2-7B", device="A100")
    config = read_shapes("Llama-2-7B")
    config.length = 2048
    expected = formula(config, 16, method, checkpointing)
    # Flash attention computes its scores once more in the backward pass: 3.5 instead of 3 passes.
    assert found.flops_per_token == pytest.approx(expected, rel=0.03)


def test_a_layer_keeps_what_the_published_formula_says():
    """performance.md 2.3: 24h + 4(q+k) + 8f bytes a token and layer, within 15 %."""
    chosen = ftlab.Recipe(
        finetuning_type="full", per_device_train_batch_size=1, cutoff_len=2048, pure_bf16=True
    )
    held = ftlab.estimate(chosen, config="Llama-3.1-8B", device="A100").trace.held
    last, first = (held[f"forward, layer {n}", "activations"] for n in (32, 1))
    per_token = (last - first) / 31 / 2048
    assert per_token == pytest.approx(24 * 4096 + 4 * (4096 + 1024) + 8 * 14336, rel=0.15)


def test_checkpointing_keeps_the_input_of_each_layer():
    chosen = recipe(finetuning_type="full", gradient_checkpointing=True, pure_bf16=True)
    held = ftlab.estimate(chosen, config="Llama-3.1-8B", device="A100").trace.held
    last, first = (held[f"forward, layer {n}", "activations"] for n in (32, 1))
    assert last - first == 31 * 2 * 4096 * ROWS * LENGTH


def test_adam_takes_what_is_published_for_each_parameter():
    """8 bytes of a pure bf16 parameter, 16 of one with fp32 weights, gradients and states."""
    values = 1_720_574_976
    shapes = {"config": "Qwen3-1.7B", "device": "H100"}
    pure = ftlab.estimate(recipe(finetuning_type="full", pure_bf16=True), **shapes)
    mixed = ftlab.estimate(recipe(finetuning_type="full"), **shapes)
    stays = ("weights", "gradients", "optimizer")
    for found, size in ((pure, 8), (mixed, 16)):
        assert sum(found.trace.held["optimizer", part] for part in stays) == pytest.approx(
            size * values, rel=1e-3
        )


def test_eight_bit_adam_saves_six_bytes_of_eight():
    shapes = {"config": "Llama-3.1-8B", "device": "H100"}
    plain, eight = (
        ftlab.estimate(recipe(finetuning_type="full", pure_bf16=True, optim=optim), **shapes).parts[
            "optimizer"
        ]
        for optim in ("adamw_torch", "adamw_8bit")
    )
    # Of bf16 weights torch keeps two states in bf16; embeddings stay at 32 bits (transformers).
    embeddings = 128256 * 4096
    others = 8_030_261_248 - embeddings
    assert plain == pytest.approx(4 * (others + embeddings), rel=1e-3)
    assert eight == pytest.approx(2 * others * (1 + 4 / 256) + 8 * embeddings, rel=1e-2)


def test_memory_and_time_are_linear_in_rows_and_layers():
    def found(rows, layers):
        shapes = {**SMALL, "num_hidden_layers": layers}
        chosen = ftlab.Recipe(per_device_train_batch_size=rows, cutoff_len=256)
        return ftlab.estimate(chosen, config=shapes, device="H100")

    four, eight, sixteen = (found(rows, 6).peak for rows in (4, 8, 16))
    assert sixteen - eight == pytest.approx(2 * (eight - four), rel=0.01)
    assert found(4, 40).flops == pytest.approx(
        found(4, 20).flops + (found(4, 30).flops - found(4, 10).flops), rel=1e-6
    )


def test_layers_of_two_kinds_are_both_counted():
    shapes = {
        "model_type": "gemma3_text", "hidden_size": 64, "intermediate_size": 128,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 1000,
        "num_hidden_layers": 8, "sliding_window": 32, "max_position_embeddings": 512,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"] * 2
        + ["sliding_attention"] * 2,
    }  # fmt: skip
    chosen = recipe(finetuning_type="full", pure_bf16=True)
    found = ftlab.estimate(chosen, config=shapes, device="A100")
    counted = memory.count(shapes, chosen)
    assert found.trace.held["optimizer", "weights"] == counted["weights"]


def test_shapes_come_from_a_name_a_folder_a_file_and_a_mapping(tmp_path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps(memory.SHAPES["Qwen3-0.6B"]))
    peaks = {
        ftlab.estimate(recipe(**keys), config=config, device="T4").peak
        for keys, config in (
            ({}, "Qwen3-0.6B"),
            ({"model_name_or_path": "Qwen/Qwen3-0.6B-Base"}, None),
            ({"model_name_or_path": str(tmp_path)}, None),
            ({}, str(file)),
            ({}, memory.SHAPES["Qwen3-0.6B"]),
            ({}, read_shapes("qwen3-0.6b")),
        )
    }
    assert len(peaks) == 1


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ("Qwen3-7B", "'Qwen3-7B': its shapes are not on this machine.*mean 'Qwen3-1.7B'"),
        ("nobody/nothing-1B", "nothing is downloaded"),
        ({"model_type": "bert"}, "bert: an encoder"),
        ({"model_type": "t5"}, "t5: transformers has no decoder of this kind"),
        ({"hidden_size": 4}, "no model_type"),
    ],
)
def test_a_model_that_cannot_be_estimated_is_named(config, sentence):
    with pytest.raises(ftlab.ModelError, match=sentence):
        ftlab.estimate(recipe(), config=config, device="T4")


def test_bad_input_gets_one_sentence(tmp_path):
    with pytest.raises(ftlab.EnvironmentProblem, match="RTX 4090"):
        ftlab.estimate(recipe(), device="RTX 4091")
    with pytest.raises(ftlab.RecipeError, match="stage=dpo"):
        ftlab.estimate(recipe(stage="dpo"))
    with pytest.raises(ftlab.RecipeError, match="cutoff_len"):
        ftlab.estimate(ftlab.Recipe(cutoff_len=0))
    with pytest.raises(ftlab.RecipeError, match="use_galore"):
        ftlab.estimate(recipe(finetuning_type="full", use_galore=True))
    with pytest.raises(ftlab.RecipeError, match="freeze_trainable_layers=7"):
        keys = {"finetuning_type": "freeze", "freeze_trainable_layers": 7}
        ftlab.estimate(recipe(**keys), config=SMALL)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ftlab.ModelError, match="no configuration"):
        ftlab.estimate(recipe(model_name_or_path=str(tmp_path)))


def test_advice_makes_it_fit_and_says_what_each_change_saves():
    chosen = ftlab.Recipe(finetuning_type="full", cutoff_len=512, per_device_train_batch_size=4)
    found = ftlab.estimate(chosen, config="Qwen3-1.7B", device="RTX 3060")
    assert found.fit.verdict == "too large"
    advice = found.advice()
    after = ftlab.estimate(
        chosen.replace(**advice.best.changes), config="Qwen3-1.7B", device="RTX 3060"
    )
    assert after.needed == advice.best.needed and after.fit.verdict != "too large"
    assert all(one.needed < found.needed for one in advice.single)
    for one in advice.best.changes:  # none of them is there for nothing
        fewer = {key: value for key, value in advice.best.changes.items() if key != one}
        if one not in ("finetuning_type", "gradient_accumulation_steps") and fewer:
            again = ftlab.estimate(chosen.replace(**fewer), config="Qwen3-1.7B", device="RTX 3060")
            assert again.fit.verdict == "too large", one
    assert str(advice.best) in str(advice) and "saves" in advice._repr_html_()


def test_advice_shortens_no_row_where_milder_changes_are_enough():
    """A LoRA run for a T4 was told to cut its rows to 256 tokens, and not to recompute."""
    chosen = ftlab.Recipe(cutoff_len=2048, per_device_train_batch_size=8)
    best = ftlab.estimate(chosen, config="Llama-3.1-8B", device="T4").advice().best
    assert best.changes["gradient_checkpointing"] and "cutoff_len" not in best.changes


def test_advice_ends_between_two_estimates_when_nobody_waits():
    stop = Event()
    found = ftlab.estimate(recipe(), config="Qwen3-0.6B", device="H200")
    assert found.advice(stop=stop).single
    stop.set()
    with pytest.raises(Stopped):
        found.advice(stop=stop)


def test_the_same_step_is_rehearsed_once(monkeypatch):
    rehearse, plans = prediction.rehearse, []

    def counted(config, chosen, plan):
        plans.append(plan)
        return rehearse(config, chosen, plan)

    monkeypatch.setattr(prediction, "rehearse", counted)
    monkeypatch.setattr(prediction, "_traces", {})
    found = ftlab.estimate(recipe(), config=dict(SMALL), device="RTX 4090")
    assert found.on("A100").trace is found.trace
    assert len(found.fits) == len(cards.CARDS)
    assert len(plans) == len(set(plans)) == 2  # a T4 computes in float16, the others in bfloat16


def test_no_advice_where_it_fits_or_where_nothing_helps():
    fits = ftlab.estimate(recipe(), config="Qwen3-0.6B", device="H200").advice()
    assert fits.best is None and "fits" in fits.headline()
    small = recipe(quantization_bit=4, gradient_checkpointing=True)
    never = ftlab.estimate(small, config="Llama-3-70B", device="T4").advice()
    assert never.best is None and "several GPUs" in never.headline()


def test_every_card_is_in_the_table_and_the_faster_are_faster():
    found = ftlab.estimate(ftlab.Recipe(), config="Qwen3-0.6B", device="A100")
    fits = {fit.card: fit for fit in found.fits}
    assert list(fits) == list(cards.CARDS)
    assert fits["H200"].seconds < fits["A100"].seconds < fits["T4"].seconds
    assert {fit.verdict for fit in fits.values()} <= {"fits", "tight", "too large"}


def test_an_estimate_reads_as_text_and_in_a_notebook():
    found = ftlab.estimate(recipe(quantization_bit=4), config="Qwen3-0.6B", device="T4")
    text = str(found)
    for words in ("weights", "constants", "needed", "peak in", "s at best", "TFLOP/s", "T4"):
        assert words in text
    assert "<td" in found._repr_html_() and "CUDA context" in found._repr_html_()
    assert found.needed == sum(found.parts.values())


def test_doctor_looks_at_a_recipe(tmp_path, capsys):
    file = tmp_path / "run.yaml"
    file.write_text("model_name_or_path: Qwen3-1.7B\nfinetuning_type: full\ncutoff_len: 512\n")
    assert cli.main(["doctor", "--recipe", str(file), "--device", "H200"]) == 0
    assert cli.main(["doctor", "--recipe", str(file), "--device", "T4"]) == 1
    assert "It fits with" in capsys.readouterr().out
    file.write_text("model_name_or_path: Qwen3-1.7B\nlora_rnak: 8\n")
    assert cli.main(["doctor", "--recipe", str(file)]) == 2
    assert "lora_rank" in capsys.readouterr().err
    assert cli.main(["doctor", "--device", "T4"]) == 2


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads Linux's /proc")
def test_a_run_holds_about_what_was_predicted():
    """In a fresh process, above what the libraries take: the peak of RSS within 15 %."""
    from benchmarks.measuring import fresh
    from ftlab.models import model_folder

    call = ("benchmarks.estimate", "tiny", "lora", model_folder("tiny"))
    found = fresh(*call, MALLOC_MMAP_THRESHOLD_="65536")  # freed tensors leave at once
    assert found["MB"] > 300
    assert found["MB predicted"] == pytest.approx(found["MB"], rel=0.15)
