"""Kernels beside transformers' own: models by Unsloth, Liger's kernels, activations kept elsewhere.

What is Unsloth's is for a process in which ``engine.begin`` imported it first. The ids, labels and
trainers are those of every other run; the adapters that come of it are PEFT's.
Taught in notebooks/17_speed_and_memory.ipynb.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ftlab.engine import pick
from ftlab.errors import EnvironmentProblem, ModelError, RecipeError
from ftlab.hardware import here, packages, pick_device

if TYPE_CHECKING:
    from ftlab.recipe import Recipe

LENGTH = 2048  # of a text that Unsloth prepares for, where nobody says


@dataclass(frozen=True)
class Unsloth:
    """How Unsloth loads a model. ``full``: all weights will train. ``checkpointing``: False, True,
    or "unsloth", which keeps the activations that are saved in main memory."""

    full: bool = False
    checkpointing: bool | str = False

    def load(
        self,
        path: str,
        *,
        dtype: torch.dtype,
        bits: int | None = None,
        length: int | None = None,
        trust_remote_code: bool = False,
    ) -> Any:
        """A causal language model with Unsloth's kernels, from a folder or a hub name.

        ``bits`` 4: NF4, doubly quantized, otherwise the weights in ``dtype``. ``length`` is the
        longest text in tokens: Unsloth cuts what is longer.
        """
        from unsloth import FastLanguageModel

        if bits not in (None, 4):
            raise ModelError(f"quantization_bit={bits}: Unsloth loads 4 bits here, or 16.")
        cuda = pick_device().value == "cuda"
        with contextlib.redirect_stdout(sys.stderr):
            model, _ = FastLanguageModel.from_pretrained(
                model_name=path,
                max_seq_length=length or LENGTH,
                dtype=dtype,
                load_in_4bit=bits == 4,
                full_finetuning=self.full,
                # Its 4-bit copies of known models lie under other names on the hub.
                use_exact_model_name=True,
                fix_tokenizer=False,
                device_map={"": torch.cuda.current_device()} if cuda else None,
                trust_remote_code=trust_remote_code,
                use_gradient_checkpointing=self.checkpointing,
            )
        return model


def wanted(name: str | Unsloth) -> Unsloth | None:
    """How ``ftlab.load(engine=name)`` uses Unsloth; None for plain transformers.

    Begins Unsloth where it is asked for, and raises EnvironmentProblem where it cannot run.
    """
    if isinstance(name, Unsloth):
        return name
    if name not in pick.ENGINES:
        raise ModelError(f"engine={name!r}: choose one of {', '.join(pick.ENGINES)}.")
    if name == "unsloth":
        if problem := pick.lacks(here(), packages()):
            raise EnvironmentProblem(f"engine='unsloth': {problem}")
        pick.begin()
    return Unsloth() if name == "unsloth" or (name == "auto" and pick.started()) else None


def for_recipe(recipe: Recipe) -> Unsloth:
    """How Unsloth loads the model that a recipe trains."""
    gc: bool | str = "unsloth" if recipe.use_unsloth_gc else recipe.gradient_checkpointing
    return Unsloth(recipe.finetuning_type == "full", gc)


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
            use_gradient_checkpointing=for_recipe(recipe).checkpointing,
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


@contextlib.contextmanager
def kernels(model: Any, recipe: Recipe) -> Iterator[None]:
    """Inside, ``model`` computes with Liger's kernels where the recipe says so.

    Liger puts its rotary embedding into the module of the model's class, where other models of
    this process would find it, on a CPU too: afterwards that is as it was. The loss is fused with
    the output layer for pt and sft; other stages need the logits.
    """
    if not recipe.enable_liger_kernel:
        yield
        return
    from liger_kernel.transformers import _apply_liger_kernel_to_instance
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN

    from ftlab.base import inner_model

    inner = inner_model(model)
    if inner.config.model_type not in MODEL_TYPE_TO_APPLY_LIGER_FN:
        raise RecipeError(
            f"enable_liger_kernel: Liger has no kernels for {inner.config.model_type}. Remove the "
            "key."
        )
    home = sys.modules[type(inner).__module__]
    before = dict(vars(home))
    fused = recipe.stage in ("pt", "sft")
    _apply_liger_kernel_to_instance(inner, fused_linear_cross_entropy=fused, cross_entropy=False)
    try:
        yield
    finally:
        vars(home).update(before)


def offloading(model: Any, recipe: Recipe) -> Any:
    """A context, entered anew for each step, that keeps saved activations in main memory.

    It is TRL's, for ``use_unsloth_gc`` on a GPU without Unsloth; elsewhere it does nothing.
    """
    if recipe.use_unsloth or not recipe.use_unsloth_gc or pick_device().value != "cuda":
        return contextlib.nullcontext()
    from trl.models import get_act_offloading_ctx_manager

    return get_act_offloading_ctx_manager(model)
