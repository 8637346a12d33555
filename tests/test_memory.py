"""Bytes by component: what is measured is there, and what is counted is what is measured."""

import pytest
import torch

import ftlab
from ftlab import memory, quantize
from ftlab.adapters import adapt, trainable_parameters
from ftlab.models import load_for
from ftlab.recipe import METHODS

IDS = torch.arange(20, 84).view(2, 32)
BATCH = {"input_ids": IDS, "labels": IDS}
# As published with the models: parameters in all.
TOTALS = {
    "Qwen2.5-0.5B": 494_032_768,
    "Qwen3-0.6B": 596_049_920,
    "Llama-3.2-1B": 1_235_814_400,
    "Qwen3-1.7B": 1_720_574_976,
    "Llama-2-7B": 6_738_415_616,
    "Qwen2.5-7B": 7_615_616_512,
    "Llama-3.1-8B": 8_030_261_248,
    "Qwen3-8B": 8_190_735_360,
    "Llama-2-13B": 13_015_864_320,
    "Llama-30B": 32_528_943_616,
    "Llama-3-70B": 70_553_706_496,
}
WAYS = [
    {},
    {"finetuning_type": "full"},
    {"finetuning_type": "freeze"},
    {"additional_target": "embed_tokens"},
    {"quantization_bit": 8},
    {"quantization_bit": 4},
    {"quantization_bit": 4, "double_quantization": False},
    {"quantization_bit": 3, "quantization_method": "hqq"},
    {"quantization_bit": 2, "quantization_method": "hqq"},
]


def stepped(recipe):
    """A model, and its optimizer, after one step."""
    model = adapt(load_for(recipe)[0], recipe)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    model(**BATCH).loss.backward()
    optimizer.step()
    return model, optimizer


def names(way):
    return ",".join(str(value) for value in way.values()) or "lora"


@pytest.mark.parametrize("way", WAYS, ids=names)
def test_what_is_counted_without_weights_is_what_is_measured(way):
    recipe = ftlab.Recipe(**way)
    model, optimizer = stepped(recipe)
    measured = memory.report(model, optimizer)
    counted = memory.count("tiny", recipe, dtype="float32")
    for part in ("weights", "constants", "adapters", "gradients"):
        assert measured[part] == counted[part], part
    tensors = sum(p.requires_grad for p in model.parameters())
    assert measured["optimizer"] == counted["optimizer"] + 4 * tensors  # AdamW counts its steps
    assert (measured.trainable, measured.parameters) == (counted.trainable, counted.parameters)


def test_the_parts_of_a_quantized_model_are_the_bytes_of_its_state():
    model, _ = ftlab.load("tiny", quantization_bit=4)
    state = model.state_dict()  # bitsandbytes lists absmax, code and theirs; the mean as JSON
    held = {t.data_ptr(): t.nbytes for name, t in state.items() if "bitsandbytes__" not in name}
    means = sum(4 for layer in model.modules() if quantize.constants(layer))
    unsaved = {b.data_ptr(): b.nbytes for b in model.buffers()}
    report = memory.report(model)
    assert report.total == sum(held.values()) + means + sum(unsaved.values())
    assert report["constants"] > 0 and report["adapters"] == report["gradients"] == 0


def test_tied_weights_count_once(tiny):
    model = tiny[0]
    assert memory.report(model).parameters == trainable_parameters(model)[1]
    once = sum(p.nbytes for p in model.parameters()) + sum(b.nbytes for b in model.buffers())
    assert memory.report(model)["weights"] == once


def test_activations_grow_with_the_batch_and_shrink_with_checkpointing(tiny):
    model = adapt(tiny[0], ftlab.Recipe()).eval()
    sizes = [
        memory.report(model, batch={name: ids[:rows] for name, ids in BATCH.items()})
        for rows in (1, 2)
    ]
    one, two = (report["activations"] for report in sizes)
    assert 1.8 * one < two < 2 * one + 100_000
    assert not model.training
    model.gradient_checkpointing_enable()
    model.enable_input_require_grads()
    assert memory.report(model, batch=BATCH)["activations"] < two / 2


def test_activations_of_one_layer_are_its_input():
    class Layer(torch.nn.Linear):
        def forward(self, x, use_cache):
            return super().forward(x)

    layer, x = Layer(8, 4, bias=False), torch.ones(16, 8)
    assert memory.report(layer, batch={"x": x})["activations"] == x.nbytes  # the weight is known


@pytest.mark.parametrize("name", memory.SHAPES)
def test_shapes_have_as_many_parameters_as_the_models(name):
    assert memory.count(name, ftlab.Recipe(finetuning_type="full")).parameters == TOTALS[name]


def test_nf4_takes_4_127_bits_a_weight():
    plain = memory.count("Llama-3.1-8B", ftlab.Recipe())
    packed = memory.count("Llama-3.1-8B", ftlab.Recipe(quantization_bit=4))
    saved = plain["weights"] - packed["weights"]  # 16 bits became 4
    values = saved * 8 / 12
    assert values == TOTALS["Llama-3.1-8B"] - 2 * 128256 * 4096 - 65 * 4096  # linear layers only
    assert 4 + packed["constants"] * 8 / values == pytest.approx(4.127, abs=5e-4)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_can_be_counted(tiny, method):
    recipe = ftlab.Recipe(finetuning_type=method)
    counted = memory.count("tiny", recipe, dtype="float32")
    assert (counted.trainable, counted.parameters) == trainable_parameters(adapt(tiny[0], recipe))


def test_eight_bit_optimizers_take_a_quarter_and_others_are_refused():
    recipe = ftlab.Recipe()
    plain = memory.count("tiny", recipe)
    eight = memory.count("tiny", recipe.replace(optim="adamw_8bit"))
    assert eight["optimizer"] * 4 == plain["optimizer"] == 8 * plain.trainable
    with pytest.raises(ftlab.RecipeError, match="these optimizers only"):
        memory.count("tiny", recipe.replace(optim="adafactor"))


def test_a_report_reads_as_text_and_in_a_notebook(tiny):
    report = memory.report(tiny[0], batch=BATCH)
    text, html = str(report), report._repr_html_()
    assert "weights        4.20 MB" in text and "1,049,984 of 1,049,984 parameters" in text
    assert "<td" in html and "activations" in html and "gradients" not in html
