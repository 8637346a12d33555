"""The bottleneck adapter of Houlsby et al. (2019, arXiv:1902.00751) as one more method of PEFT.

After the output of the attention and of the MLP: down to a few numbers, a nonlinearity, up again,
added to what came in. "Up" starts at zero, so an untrained adapter changes nothing. Importing this
module makes PEFT know it: it saves, loads, switches and disables like PEFT's own methods.
Taught in notebooks/10_peft_family.ipynb.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftConfig
from peft.mapping import (
    PEFT_TYPE_TO_CONFIG_MAPPING,
    PEFT_TYPE_TO_PREFIX_MAPPING,
    PEFT_TYPE_TO_TUNER_MAPPING,
)
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import nn


class _PeftType(str):
    """A word that PEFT takes for a member of its enum of methods."""

    value = property(str.__str__)


KIND = _PeftType("BOTTLENECK")
TARGETS = ["o_proj", "down_proj"]  # the layers that write the attention's and the MLP's output


@dataclass
class BottleneckConfig(PeftConfig):
    """``bottleneck_size``: numbers between down and up. ``target_modules``: whose output it takes.

    ``modules_to_save``: modules that are trained whole and saved along.
    """

    bottleneck_size: int = 64
    target_modules: Any = None
    modules_to_save: list[str] | None = None

    def __post_init__(self) -> None:
        """Name the method as PEFT's own configurations do."""
        super().__post_init__()
        self.peft_type = KIND
        self.target_modules = set(self.target_modules or TARGETS)


class BottleneckLayer(nn.Module, BaseTunerLayer):
    """A layer and what is added to its output, ``up(gelu(down(output)))``."""

    adapter_layer_names = ("bottleneck_down", "bottleneck_up")

    def __init__(self, base_layer: nn.Module, name: str, config: BottleneckConfig) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.bottleneck_down, self.bottleneck_up = nn.ModuleDict(), nn.ModuleDict()
        self._disable_adapters, self._active_adapter = False, name
        self.merged_adapters: list[str] = []
        self.update_layer(name, config)

    def update_layer(self, name: str, config: BottleneckConfig) -> None:
        """Add one adapter, called ``name``."""
        tuner: Any = self
        width = tuner.get_base_layer().out_features
        up = nn.Linear(config.bottleneck_size, width)
        nn.init.zeros_(up.weight)
        nn.init.zeros_(up.bias)
        self.bottleneck_down[name] = nn.Linear(width, config.bottleneck_size)
        self.bottleneck_up[name] = up
        tuner._move_adapter_to_device_of_base_layer(name)
        tuner.set_adapter(tuner.active_adapters, inference_mode=config.inference_mode)

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """The layer's output, ``[..., width]``, with what the active adapters add to it."""
        tuner: Any = self
        output: torch.Tensor = self.base_layer(x, *args, **kwargs)
        for name in [] if tuner.disable_adapters else tuner.active_adapters:
            if name in self.bottleneck_down:
                down: Any = self.bottleneck_down[name]
                hidden = nn.functional.gelu(down(output.to(down.weight.dtype)))
                output = output + self.bottleneck_up[name](hidden).to(output.dtype)
        return output


class BottleneckModel(BaseTuner):
    """A model with a bottleneck after each target layer."""

    prefix = "bottleneck_"
    tuner_layer_cls = BottleneckLayer
    target_module_mapping: dict[str, list[str]] = {}

    def _create_and_replace(
        self, peft_config: Any, adapter_name: str, target: nn.Module, target_name: str,
        parent: nn.Module, current_key: str, **optional: Any,
    ) -> None:  # fmt: skip
        if isinstance(target, BottleneckLayer):
            target.update_layer(adapter_name, peft_config)
            return
        layer = BottleneckLayer(target, adapter_name, peft_config)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)

    def _check_merge_allowed(self) -> None:
        raise ValueError("a bottleneck adapter is not linear, so no weights equal it")


PEFT_TYPE_TO_CONFIG_MAPPING[KIND] = BottleneckConfig
PEFT_TYPE_TO_TUNER_MAPPING[KIND] = BottleneckModel
PEFT_TYPE_TO_PREFIX_MAPPING[KIND] = BottleneckModel.prefix
