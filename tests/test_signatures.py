"""Every keyword and method of TRL, PEFT and transformers that ftlab leans on is still there.

A release that renames one of them breaks courses in the middle of a lesson; here it breaks first.
"""

import dataclasses
import inspect

import pytest
import torch
from peft import PeftModel, get_peft_model
from peft.optimizers import create_loraplus_optimizer
from peft.tuners.adalora import AdaLoraModel
from peft.tuners.adalora.layer import RankAllocator
from peft.tuners.lora import LoraModel
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import AutoModelForCausalLM, GenerationConfig, Trainer, TrainerCallback
from transformers.utils import logging as transformers_logging
from trl import SFTConfig, SFTTrainer
from trl.chat_template_utils import get_training_chat_template, has_generation_markers
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from ftlab.adapters.methods import configuration
from ftlab.arguments import common_arguments, loss_type, training_arguments
from ftlab.calculator.step import CHUNK
from ftlab.guards import Guards, Recorder
from ftlab.recipe import METHODS, Recipe
from ftlab.script import _SCRIPT_KEYS


def parameters(function):
    return set(inspect.signature(function).parameters)


def fields(config):
    return {f.name for f in dataclasses.fields(config) if f.init}


def test_an_adapter_on_the_output_layer_gets_whole_logits():
    """TRL computes the loss in chunks from the layer's own weight, past an adapter on it."""
    assert loss_type(Recipe(), 150_000) == "chunked_nll"
    assert loss_type(Recipe(), 2_000) == "nll"
    assert loss_type(Recipe(lora_target="q_proj, lm_head"), 150_000) == "nll"
    assert loss_type(Recipe(finetuning_type="oft", oft_target="lm_head"), 150_000) == "nll"


def test_sft_config_takes_every_argument_we_pass():
    passed = common_arguments(Recipe()).keys()
    assert len(passed) > 25
    assert passed <= fields(SFTConfig) and fields(SFTConfig) >= _SCRIPT_KEYS


@pytest.mark.parametrize("method", [m for m in METHODS if m not in ("full", "freeze")])
def test_a_methods_configuration_takes_every_argument_we_pass(method):
    chosen = configuration(Recipe(finetuning_type=method, additional_target="embed_tokens"))
    assert set(chosen.values) <= fields(type(chosen.build()))


def test_what_adalora_and_our_own_method_lean_on_is_still_there():
    source = inspect.getsource(AdaLoraModel)
    assert "update_and_allocate" in source and "orth_reg_weight" in source
    assert {"model", "global_step"} <= parameters(RankAllocator.update_and_allocate)
    for name in ("exp_avg_ipt", "exp_avg_unc"):
        assert name in inspect.getsource(RankAllocator)
    for name in ("adapter_layer_names", "other_param_names", "set_adapter"):
        assert hasattr(BaseTunerLayer, name)
    assert "lora_A" in inspect.getsource(LoraModel.subtract_mutated_init)


def test_generation_config_knows_what_we_set():
    assert {"max_new_tokens", "do_sample", "temperature", "top_p", "top_k", "eos_token_id",
            "pad_token_id"} <= set(GenerationConfig().to_dict())  # fmt: skip


@pytest.mark.parametrize(
    ("function", "names"),
    [
        (SFTTrainer.__init__, {"model", "args", "data_collator", "train_dataset", "eval_dataset",
                               "processing_class", "callbacks"}),
        (SFTTrainer.training_step, {"args", "kwargs"}),
        (Trainer.compute_loss, {"model", "inputs", "return_outputs", "num_items_in_batch"}),
        (Trainer._get_grad_norm, {"model", "grad_norm"}),
        (Trainer._clip_grad_norm, {"model"}),
        (Trainer._save_checkpoint, {"model", "trial"}),
        (Trainer._get_output_dir, {"trial"}),
        (Trainer.train, {"resume_from_checkpoint"}),
        (DataCollatorForLanguageModeling.__init__, {"pad_token_id"}),
        (get_peft_model, {"model", "peft_config"}),
        (create_loraplus_optimizer, {"model", "optimizer_cls", "lr", "loraplus_lr_ratio"}),
        (Trainer._load_from_checkpoint, {"resume_from_checkpoint", "model"}),
        (Trainer.create_optimizer, {"model"}),
        (torch.optim.Muon.__init__, {"params", "lr", "weight_decay", "adjust_lr_fn"}),
        (PeftModel.from_pretrained, {"model", "model_id"}),
        (get_training_chat_template, {"processing_class"}),
        (has_generation_markers, {"chat_template"}),
        (AutoModelForCausalLM.from_pretrained, {"kwargs"}),
    ],
)  # fmt: skip
def test_a_call_of_ours_still_has_its_parameters(function, names):
    assert names <= parameters(function)


@pytest.mark.parametrize("name", ["on_train_begin", "on_step_end", "on_log"])
def test_a_callback_of_ours_still_overrides_one_of_the_trainer(name):
    assert hasattr(TrainerCallback, name) and name in vars(Recorder)


@pytest.mark.parametrize(
    "name",
    [
        "training_step",
        "_get_grad_norm",
        "_save_checkpoint",
        "_get_output_dir",
        "_load_from_checkpoint",
        "create_optimizer",
        "evaluate",
    ],
)
def test_a_trainer_method_of_ours_still_overrides_one(name):
    assert hasattr(SFTTrainer, name) and name in vars(Guards)


def test_the_gradient_norm_is_taken_before_the_optimizer_steps():
    source = inspect.getsource(Trainer._run_epoch)
    assert source.index("_get_grad_norm") < source.index("self.optimizer.step()")


def test_progress_bars_can_be_switched():
    for name in ("disable_progress_bar", "enable_progress_bar", "is_progress_bar_enabled"):
        assert hasattr(transformers_logging, name)


def test_a_ratio_is_still_read_from_warmup_steps(tmp_path):
    arguments = training_arguments(Recipe(warmup_ratio=0.1), tmp_path)
    assert arguments.get_warmup_steps(200) == 20


def test_what_the_calculator_leans_on_is_still_there():
    from transformers import masking_utils
    from trl.trainer import sft_trainer

    assert hasattr(masking_utils, "is_tracing")
    assert hasattr(masking_utils, "find_packed_sequence_indices")
    assert list(inspect.signature(sft_trainer._chunk).parameters) == [
        "h", "w", "b", "lbl", "logit_scale", "final_logit_softcapping",
    ]  # fmt: skip
    assert sft_trainer._CHUNKED_LM_HEAD_CHUNK_SIZE == CHUNK
