"""LoftQ: LoRA that starts from what 4-bit rounding lost (Li et al. 2023, arXiv:2310.08659).

One step of it: the largest singular vectors of (original - rounded) become A and B.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from ftlab.errors import RecipeError
from ftlab.models import model_folder
from ftlab.recipe import Recipe


@torch.no_grad()
def start_from_error(model: Any, recipe: Recipe) -> None:
    """Set A and B of each LoRA layer over a 4-bit layer so that ``rounded + BA`` is nearest.

    PEFT's ``replace_lora_weights_loftq`` does the same on a GPU and leaves LoRA's scale out.
    Raises RecipeError where the original weights are not at hand as safetensors.
    """
    from bitsandbytes.functional import dequantize_4bit

    folder = Path(model_folder(recipe.model_name_or_path)).expanduser()
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise RecipeError(
            f"init_lora_weights=loftq: needs the weights before quantization, and {folder} is no "
            "folder with *.safetensors."
        )
    where: dict[str, Path] = {}
    for file in files:
        with safe_open(file, "pt") as opened:
            where |= dict.fromkeys(opened.keys(), file)
    for name, layer in model.get_base_model().named_modules():
        if "default" not in getattr(layer, "lora_A", {}):
            continue
        key, rounded = f"{name}.weight", layer.get_base_layer().weight
        if key not in where or getattr(rounded, "quant_state", None) is None:
            raise RecipeError(f"init_lora_weights=loftq: {name} is no 4-bit layer of {folder}.")
        with safe_open(where[key], "pt") as opened:
            whole = opened.get_tensor(key).to(rounded.device, torch.float32)
        lost = whole - dequantize_4bit(rounded.data, rounded.quant_state).float()
        left, strengths, right = torch.linalg.svd(lost, full_matrices=False)
        rank = layer.r["default"]
        root = (strengths[:rank] / layer.scaling["default"]).sqrt()
        layer.lora_A["default"].weight.copy_(root[:, None] * right[:rank])
        layer.lora_B["default"].weight.copy_(left[:, :rank] * root)
