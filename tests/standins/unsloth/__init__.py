"""A stand-in for Unsloth where it is not installed: its names, on plain transformers and PEFT.

Like the real one it patches TRL when it is imported, so that tests see where that reaches. What it
computes is what transformers computes, as Unsloth's own backend for CPUs does.
"""

# ruff: noqa: E402
import os
import sys

__version__ = "stand-in"
LATE = [name for name in ("transformers", "trl", "peft") if name in sys.modules]
print("a greeting that nobody asked for")

import torch
import trl
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, set_seed

if os.environ.get("STANDIN_BREAKS"):
    raise NotImplementedError("no torch accelerator found")
trl.SFTTrainer.patched_by_unsloth = True


class FastLanguageModel:
    """The two functions that ftlab calls."""

    @staticmethod
    def from_pretrained(
        model_name, max_seq_length, dtype, load_in_4bit, full_finetuning, use_exact_model_name,
        fix_tokenizer, device_map, trust_remote_code, use_gradient_checkpointing,
    ):  # fmt: skip
        """(model, None), the weights as they are or in NF4."""
        assert use_exact_model_name and not fix_tokenizer and not trust_remote_code and not LATE
        options = {}
        if load_in_4bit:
            options["quantization_config"] = BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=dtype,
            )  # fmt: skip
        model = AutoModelForCausalLM.from_pretrained(model_name, dtype=dtype, **options)
        model.max_seq_length, model.whole = max_seq_length, full_finetuning
        model.requires_grad_(full_finetuning and not load_in_4bit)
        return model, None

    @staticmethod
    def get_peft_model(
        model, r, target_modules, lora_alpha, lora_dropout, use_rslora, random_state,
        use_gradient_checkpointing,
    ):  # fmt: skip
        """LoRA, in the model itself, with PEFT's start for that seed."""
        assert isinstance(target_modules, list) and isinstance(model, torch.nn.Module)
        set_seed(random_state)
        config = LoraConfig(
            r=r, target_modules=target_modules, lora_alpha=lora_alpha, lora_dropout=lora_dropout,
            use_rslora=use_rslora, task_type="CAUSAL_LM",
        )  # fmt: skip
        return get_peft_model(model, config)
