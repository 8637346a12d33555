"""Models with Unsloth's kernels: loading them, LoRA on them, the reference of DPO.

For a process in which ``engine.begin`` imported Unsloth first. The ids, labels and trainers are
those of every other run; the adapters that come of it are PEFT's.
Taught in notebooks/17_fast_on_one_gpu.ipynb.
"""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any

import torch

from ftlab import engine
from ftlab.errors import ModelError
from ftlab.hardware import here, packages, pick_device

if TYPE_CHECKING:
    from ftlab.recipe import Recipe

LENGTH = 2048  # of a text that Unsloth prepares for, where nobody says


def wanted(name: str) -> bool:
    """Whether ``ftlab.load(engine=name)`` is to use Unsloth; begins it where that is asked for."""
    if name not in engine.ENGINES:
        raise ModelError(f"engine={name!r}: choose one of {', '.join(engine.ENGINES)}.")
    if name == "unsloth":
        if problem := engine.lacks(here(), packages()):
            raise engine.EnvironmentProblem(f"engine='unsloth': {problem}")
        engine.begin()
    return name == "unsloth" or (name == "auto" and engine.started())


def load(
    path: str,
    *,
    dtype: torch.dtype,
    bits: int | None = None,
    length: int | None = None,
    trust_remote_code: bool = False,
    full: bool = False,
    checkpointing: bool | str = False,
) -> Any:
    """A causal language model with Unsloth's kernels, from a folder or a hub name.

    ``bits`` 4: NF4, doubly quantized, otherwise the weights in ``dtype``. ``length`` is the longest
    text in tokens: Unsloth cuts what is longer. ``full``: all weights will train.
    ``checkpointing``: False, True, or "unsloth", which keeps the saved activations in main memory.
    """
    from unsloth import FastLanguageModel

    if bits not in (None, 4):
        raise ModelError(f"quantization_bit={bits}: with Unsloth ftlab loads 4 bits or 16.")
    cuda = pick_device().value == "cuda"
    with contextlib.redirect_stdout(sys.stderr):
        model, _ = FastLanguageModel.from_pretrained(
            model_name=path,
            max_seq_length=length or LENGTH,
            dtype=dtype,
            load_in_4bit=bits == 4,
            full_finetuning=full,
            # Their 4-bit copies of known models lie under other names on the hub.
            use_exact_model_name=True,
            fix_tokenizer=False,
            device_map={"": torch.cuda.current_device()} if cuda else None,
            trust_remote_code=trust_remote_code,
            use_gradient_checkpointing=checkpointing,
        )
    return model


def checkpointing(recipe: Recipe) -> bool | str:
    """What Unsloth calls the recipe's gradient checkpointing."""
    return "unsloth" if recipe.use_unsloth_gc else recipe.gradient_checkpointing


def attach(model: Any, recipe: Recipe) -> Any:
    """The loaded model itself, made ready to train: with LoRA, or all of it.

    The matrices start as PEFT's do from the same seed. Raises RecipeError for targets that the
    model has not.
    """
    from unsloth import FastLanguageModel

    from ftlab.adapters.methods import check, configuration, linear_layers

    if recipe.finetuning_type == "full":
        return model
    check(model, recipe)
    values = configuration(recipe).values
    targets = values["target_modules"]
    if targets == "all-linear":
        output = model.get_output_embeddings()
        layers = linear_layers(model).items()
        targets = sorted({name.split(".")[-1] for name, layer in layers if layer is not output})
    names = ("r", "lora_alpha", "lora_dropout", "use_rslora")
    with contextlib.redirect_stdout(sys.stderr):
        return FastLanguageModel.get_peft_model(
            model,
            target_modules=targets,
            random_state=recipe.seed,
            use_gradient_checkpointing=checkpointing(recipe),
            **{name: values[name] for name in names},
        )


class WithoutAdapter(torch.nn.Module):
    """The reference of a policy whose adapter sits in its own base: that base, asked alone."""

    def __init__(self, policy: Any) -> None:
        super().__init__()
        self.policy = (policy,)  # in a tuple, so that its weights do not count twice

    def forward(self, **inputs: Any) -> Any:
        """The outputs of the base."""
        with self.policy[0].disable_adapter():
            return self.policy[0](**inputs)
