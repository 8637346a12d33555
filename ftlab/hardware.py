"""What this machine computes on and what follows from it: precision, attention, kernels.

Each decision is a function of plain values (``Hardware``, a recipe, the packages found), so that
what a T4 or an H100 would get can be asked, and tested, on any machine. Nothing here imports
transformers. Taught in notebooks/17_speed_and_memory.ipynb.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Collection
from typing import TYPE_CHECKING, NamedTuple

import torch

from ftlab.errors import EnvironmentProblem

if TYPE_CHECKING:
    from ftlab.recipe import Recipe

# Packages with kernels of their own: the name to import -> what pip calls it.
KERNELS = {"unsloth": "unsloth", "liger_kernel": "liger-kernel", "flash_attn": "flash-attn"}
AMPERE = (8, 0)  # NVIDIA's first capability with bf16, and the oldest that FlashAttention-2 takes


class Choice(NamedTuple):
    """A value chosen automatically, and why."""

    value: str
    reason: str


class Hardware(NamedTuple):
    """The device to compute on: its kind (``cuda``, ``mps``, ``cpu``), its name, for CUDA its
    capability, whether it computes in bf16 itself, and its memory in bytes."""

    device: str = "cpu"
    name: str = "no CUDA device found"
    capability: tuple[int, int] = (0, 0)
    bf16: bool = False
    memory: int = 0

    def __str__(self) -> str:
        if self.device != "cuda":
            return f"{self.device} ({self.name})"
        return f"{self.name} (capability {self.capability[0]}.{self.capability[1]})"


class Precision(NamedTuple):
    """What a run computes in.

    ``compute``: the type of its matrix products; ``weights``: of the weights it loads;
    ``autocast``: "bf16" or "fp16" where parameters that train stay in float32 beside it, "fp16"
    with loss scaling; None where all is of one type.
    """

    compute: str
    weights: str
    autocast: str | None
    reason: str


def here() -> Hardware:
    """The hardware of this machine.

    >>> here().device in ("cpu", "cuda", "mps")
    True
    """
    device = pick_device()
    if device.value != "cuda":
        return Hardware(device.value, device.reason)
    memory = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    bf16 = pick_dtype("cuda").value == "bfloat16"
    return Hardware("cuda", device.reason, torch.cuda.get_device_capability(), bf16, memory)


def pick_device() -> Choice:
    """The device to compute on: ``cuda``, ``mps`` or ``cpu``."""
    if torch.cuda.is_available():
        return Choice("cuda", torch.cuda.get_device_name())
    if torch.backends.mps.is_available():
        return Choice("mps", "Apple GPU")
    return Choice("cpu", "no CUDA device found")


def pick_dtype(device: str) -> Choice:
    """The precision for ``device``: bf16 where the hardware has it, else fp16 or fp32."""
    if device != "cuda":
        return Choice("float32", f"{device} computes fastest and safest in fp32")
    # Without including_emulation=False a T4 claims bf16 and then emulates it slowly.
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return Choice("bfloat16", "this GPU has bf16 hardware")
    return Choice("float16", "this GPU has no bf16 hardware")


def packages() -> frozenset[str]:
    """Which of ``KERNELS`` are installed; imports none of them."""
    return frozenset(name for name in KERNELS if importlib.util.find_spec(name) is not None)


def asked(recipe: Recipe) -> str | None:
    """The precision that a recipe's keys ask for; None where they leave it open."""
    if recipe.bf16 or recipe.pure_bf16:
        return "bfloat16"
    return "float16" if recipe.fp16 else None


def precision(recipe: Recipe, hardware: Hardware) -> Precision:
    """What a run of ``recipe`` computes in on ``hardware``, and why.

    bf16 on GPUs that have it (Ampere and later), else fp16 with loss scaling (T4), fp32 on a CPU.
    As in LLaMA-Factory, what trains is kept in fp32 unless ``pure_bf16``, so that small updates
    are not rounded away; full tuning therefore loads fp32 weights.

    >>> from ftlab.recipe import Recipe
    >>> t4 = Hardware("cuda", "Tesla T4", (7, 5), bf16=False)
    >>> precision(Recipe(), t4)[:3]
    ('float16', 'float16', 'fp16')
    """
    if hardware.device != "cuda":
        why = f"{hardware.device} computes fastest and safest in fp32"
        return Precision("float32", "float32", None, why)
    if asked(recipe) == "float16":
        compute, why = "float16", "the recipe says fp16; gradients are scaled"
    elif hardware.bf16:
        compute, why = "bfloat16", f"{hardware} has bf16 hardware"
    else:
        compute, why = "float16", f"{hardware} has no bf16 hardware; gradients are scaled"
    pure = recipe.pure_bf16 and compute == "bfloat16"
    weights = "float32" if recipe.finetuning_type == "full" and not pure else compute
    short = {"bfloat16": "bf16", "float16": "fp16"}[compute]
    return Precision(compute, weights, None if pure else short, why)


def precision_notices(recipe: Recipe, hardware: Hardware) -> list[str]:
    """The sentences that announce it: where it is not what the recipe asks for, and on a GPU."""
    chosen, wanted = precision(recipe, hardware), asked(recipe)
    if wanted not in (None, chosen.compute):
        return [f"{wanted} asked for, {chosen.compute} used: {chosen.reason}."]
    return [f"precision: {chosen.compute} ({chosen.reason})."] if chosen.autocast else []


def attention(flash_attn: str, hardware: Hardware, found: Collection[str]) -> str | None:
    """The ``flash_attn`` of a recipe as transformers' ``attn_implementation``; None: its choice.

    EnvironmentProblem where FlashAttention-2 cannot run: LLaMA-Factory would warn and go on
    without it.

    >>> attention("disabled", Hardware(), [])
    'eager'
    """
    names = {"auto": None, "sdpa": "sdpa", "disabled": "eager", "fa2": "flash_attention_2"}
    if flash_attn == "fa2":
        if hardware.device != "cuda" or hardware.capability < AMPERE:
            raise EnvironmentProblem(
                f"flash_attn=fa2: FlashAttention-2 wants an NVIDIA GPU of capability 8.0 or later "
                f"(Ampere); here is {hardware}. Use flash_attn: sdpa."
            )
        if "flash_attn" not in found:
            raise EnvironmentProblem(
                "flash_attn=fa2: its package is not installed: pip install flash-attn, or use "
                "flash_attn: sdpa."
            )
    return names[flash_attn]


def check_liger(hardware: Hardware, found: Collection[str]) -> None:
    """EnvironmentProblem where Liger's kernels, which are Triton's, cannot run."""
    if hardware.device != "cuda":
        raise EnvironmentProblem(
            f"enable_liger_kernel: Liger's kernels run on a GPU; here is {hardware}. Remove the "
            "key."
        )
    if "liger_kernel" not in found:
        raise EnvironmentProblem(
            "enable_liger_kernel: its package is not installed: pip install liger-kernel"
        )
