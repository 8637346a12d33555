"""A ledger of storages and operations, kept while PyTorch computes (with or without contents).

It knows of every storage when it comes to life and when it is freed, and what each operation
computes, reads and writes. Used by `ftlab.calculator.step`.
"""

from __future__ import annotations

import weakref
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from math import prod
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

COMPONENTS = (
    "weights", "constants", "adapters", "optimizer", "gradients", "activations", "logits",
)  # fmt: skip
aten = torch.ops.aten
# attention on a CPU -> where its arguments have the queries and is_causal, and matrix products
_ATTENTION = {
    aten._scaled_dot_product_flash_attention_for_cpu: (0, 4, 2),
    aten._scaled_dot_product_flash_attention_for_cpu_backward: (1, 7, 5),
}


class Operation(NamedTuple):
    """A kind of operation: its part of the step, the precision it computes in, its FLOPs, and the
    bytes it reads and writes (0: no computation, such as a view)."""

    part: str
    dtype: str
    flops: int
    moved: int


class Ledger(TorchDispatchMode):
    """Follows what is computed inside ``with ledger:``.

    A storage counts once, under the component that is set when it is made; ``vocabulary`` tells
    logits from other activations. ``enter`` begins a part of the step, whose highest moment is
    kept.
    """

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.live: Counter[str] = Counter()
        self.component: str | None = None  # of what is made now; None: found out
        self.backward = False
        self._part = ""
        self._size = 0
        self._names: dict[int, str] = {}
        self._top: dict[str, int] = {}
        self._held: dict[str, Counter[str]] = {}
        self.times = 1.0  # how often what is computed now counts
        self._operations: defaultdict[Operation, float] = defaultdict(float)

    def hold(self, tensor: torch.Tensor, component: str) -> None:
        """Count a tensor's storage under this component; once it is freed it counts no more."""
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key in self._names:
            return
        self._names[key] = component
        self.live[component] += size
        self._size += size
        weakref.finalize(storage, self._drop, key, size)
        self._look()

    def is_gradient(self, parameter: torch.Tensor) -> None:
        """From now on the storage of this parameter's gradient is one."""
        assert parameter.grad is not None
        storage = parameter.grad.untyped_storage()
        before = self._names[id(storage)]
        self._names[id(storage)] = "gradients"
        self.live[before] -= storage.nbytes()
        self.live["gradients"] += storage.nbytes()

    def enter(self, part: str) -> None:
        """Begin a part of the step; operations count from the first one on."""
        self._part = part
        self._look()

    def found(self) -> tuple[Counter[tuple[str, str]], Mapping[Operation, float]]:
        """(part, component) -> bytes at the part's highest moment; operations by kind."""
        held: Counter[tuple[str, str]] = Counter()
        for part, components in self._held.items():
            held.update({(part, name): size for name, size in components.items()})
        return held, dict(self._operations)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.prim.device.default:  # asked for more often than anything is computed
            return getattr(args[0], "fake_device", None) or func(*args)
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self.hold(tensor, self.component or self._guess(tensor))
        if self._part:
            part = "optimizer" if self._part == "optimizer" else "batch"
            kind = Operation(part, *_operation(func, args, kwargs or {}, out))
            self._operations[kind] += self.times
        return out

    def _guess(self, tensor: torch.Tensor) -> str:
        # What the loss makes of the output layer's matrix, too: a copy in fp32, its gradient.
        logits = self._part == "loss" and self.vocabulary in tensor.shape
        return "logits" if logits else "activations"

    def _drop(self, key: int, size: int) -> None:
        self.live[self._names.pop(key)] -= size
        self._size -= size

    def _look(self) -> None:
        if self._part and self._size > self._top.get(self._part, -1):
            self._top[self._part] = self._size
            self._held[self._part] = Counter(self.live)


def _operation(func: Any, args: Any, kwargs: Any, out: Any) -> tuple[str, int, int]:
    """Precision, FLOPs and bytes of this call."""
    inputs = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
    dtype = str(inputs[0].dtype if inputs else torch.float32).removeprefix("torch.")
    return dtype, _flops(func, args, kwargs, out), _moved(func, args, inputs, out)


def _flops(func: Any, args: Any, kwargs: Any, out: Any) -> int:
    """Two a multiplication of matrices' numbers; causal attention computes half of its square."""
    packet = func.overloadpacket
    if packet in _ATTENTION:
        first, causal, products = _ATTENTION[packet]
        rows, heads, length, size = args[first].shape
        keys = args[first + 1].shape[-2]
        is_causal = args[causal] if len(args) > causal else kwargs.get("is_causal", False)
        return 2 * products * rows * heads * length * keys * size // (2 if is_causal else 1)
    count: Callable[..., int] | None = flop_registry.get(packet)
    return int(count(*args, **kwargs, out_val=out)) if count else 0


def _moved(func: Any, args: Any, inputs: list[torch.Tensor], out: Any) -> int:
    """Bytes read and written; none where the result is a view, or memory without contents."""
    aliases = [r.alias_info for r in func._schema.returns if r.alias_info]
    if "empty" in func.name() or any(not alias.is_write for alias in aliases):
        return 0
    written = [t for t in tree_leaves(out) if isinstance(t, torch.Tensor)]
    for value, declared in zip(args, func._schema.arguments, strict=False):
        if declared.alias_info and declared.alias_info.is_write and not aliases:
            written += [t for t in tree_leaves(value) if isinstance(t, torch.Tensor)]
    return sum(map(_bytes, inputs)) + sum(map(_bytes, written))


def _bytes(tensor: torch.Tensor) -> int:
    """Bytes of the numbers, each once where a tensor repeats them."""
    whole = prod(tensor.shape) * tensor.element_size()
    return int(min(whole, tensor.untyped_storage().nbytes()))
