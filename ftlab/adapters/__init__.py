"""The ways to adapt a model, one table (``methods``) and one call (``adapt``).

``attach`` makes the parameters of a method train and keeps them; ``bottleneck`` and ``loftq`` are
the two that PEFT does not hold as they are here. ``cards``, ``switching`` and ``combination``
describe, switch and combine adapters that were trained before. Taught in
notebooks/08_lora.ipynb, notebooks/10_peft_family.ipynb and notebooks/15_merging_and_export.ipynb.
"""

from ftlab.adapters.attach import (
    RankSchedule,
    adapt,
    allocator,
    finish_folder,
    is_adapter,
    lora_config,
    merged_first,
    penalty,
    restore,
    trainable_parameters,
    unfrozen_names,
)

__all__ = [
    "RankSchedule",
    "adapt",
    "allocator",
    "finish_folder",
    "is_adapter",
    "lora_config",
    "merged_first",
    "restore",
    "trainable_parameters",
    "unfrozen_names",
    "penalty",
]
