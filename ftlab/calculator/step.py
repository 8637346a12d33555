"""One training step on tensors that have a shape and no contents: what it holds and computes.

The real model class, PEFT's real adapters, the real loss, backward pass and optimizer run under
PyTorch's FakeTensorMode, while a ledger notes every storage that comes to life and dies.
Taught in notebooks/17_speed_and_memory.ipynb.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from types import MethodType, SimpleNamespace
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from accelerate.utils import convert_outputs_to_fp32
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint
from transformers import masking_utils

from ftlab import memory, optimizers
from ftlab.adapters import adapt, is_adapter
from ftlab.calculator.ledger import Ledger, Operation
from ftlab.errors import ModelError, RecipeError
from ftlab.recipe import Recipe

CHUNK = 256  # tokens whose logits TRL's chunked loss holds at a time
FEW = 3  # of those chunks are rehearsed


class Plan(NamedTuple):
    """What a step is made of, beside the model and the recipe.

    ``rows`` of ``length`` tokens; ``dtype`` of the weights; ``autocast``: what matrices are
    multiplied in where that is another (then what trains is fp32); ``chunked``: logits are
    computed a few tokens at a time; ``masked``: attention needs a mask, because a row is padded
    or samples share one.
    """

    rows: int
    length: int
    dtype: torch.dtype
    autocast: torch.dtype | None
    chunked: bool
    masked: bool


class Trace(NamedTuple):
    """What one step was seen to need; both are linear in the number of layers.

    ``held``: (part of the step, component) -> bytes at the moment when that part held most.
    ``operations``: how many ran of each kind.
    """

    held: Counter[tuple[str, str]]
    operations: Mapping[Operation, float]

    def plus(self, times: int, first: Trace, longer: Trace) -> Trace:
        """This trace and ``times`` what ``longer``, a layer more, needs beyond ``first``."""
        held, operations = Counter(self.held), defaultdict(float, self.operations)
        parts = {part for part, _ in first.held}
        for key in {*first.held, *longer.held}:
            if key[0] in parts:  # a layer in between holds what lies between its neighbors'
                held[key] += times * (longer.held[key] - first.held[key])
        for kind in {*first.operations, *longer.operations}:
            more = longer.operations.get(kind, 0.0) - first.operations.get(kind, 0.0)
            operations[kind] += times * more
        return Trace(held, operations)


def decoder_layers(model: Any) -> tuple[Any, str]:
    """The module that holds the list of decoder layers, and the list's name in it."""
    depth = model.config.get_text_config().num_hidden_layers
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, torch.nn.ModuleList) and len(child) == depth:
                return module, name
    raise ModelError(f"{model.config.model_type}: no list of {depth} decoder layers found.")


def trace_step(plain: Any, chosen: list[int], recipe: Recipe, plan: Plan) -> Trace:
    """Rehearse one step of this short model, whose optimizer has its state already."""
    # These only change the values that an adapter starts from, and want weights for it.
    recipe = recipe.replace(pissa_init=False, init_lora_weights="default")
    if recipe.quantization_bit:
        for layer in memory.packed_layers(plain).values():
            layer.ftlab_packed = memory.packed_bytes(layer.weight, recipe)
    with torch.device("meta"):
        model = adapt(plain, recipe, copied=False)
    ledger, mode = Ledger(plain.config.get_text_config().vocab_size), FakeTensorMode()
    with mode:
        _fill(model, recipe, plan, ledger)
    inner = model.get_base_model() if is_adapter(model) else model
    model.train()
    if recipe.gradient_checkpointing:
        inner.gradient_checkpointing_enable()
        if is_adapter(model):
            model.enable_input_require_grads()  # as TRL does
    if plan.chunked:
        inner.forward = MethodType(_chunked(ledger), inner)
    with mode, ledger, nullcontext() if plan.masked else _whole_rows():
        update = stepper(model, recipe, ledger)
        take_step(model, chosen, update, recipe, plan, ledger)
    return Trace(*ledger.found())


def take_step(
    model: Any, chosen: list[int], update: Callable[[], Any], recipe: Recipe, plan: Plan,
    ledger: Ledger,
) -> None:  # fmt: skip
    """Forward, backward and ``update``, in parts of which the ledger is told; ``chosen``: which
    layers of the whole model these are."""
    trained = [p for p in model.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.register_post_accumulate_grad_hook(ledger.is_gradient)
        if recipe.gradient_accumulation_steps > 1:  # what the batches before this one left
            parameter.grad = torch.zeros_like(parameter)
            ledger.is_gradient(parameter)
    ids = torch.zeros(plan.rows, plan.length, dtype=torch.long)
    with _marked(model, chosen, ledger):
        ledger.enter("embedding")
        loss = _loss(model, ids, plan)
        ledger.backward = True
        loss.backward()
        ledger.times = 1.0
        del loss
    ledger.enter("optimizer")
    if recipe.max_grad_norm:
        torch.nn.utils.clip_grad_norm_(trained, recipe.max_grad_norm)
    update()


def _fill(model: Any, recipe: Recipe, plan: Plan, ledger: Ledger) -> None:
    """Replace the model's tensors, which are on "meta", by fake ones on the CPU; name them."""
    names = set(getattr(model, "peft_config", {}))
    for name, tokens in getattr(model, "prompt_tokens", {}).items():
        model.prompt_tokens[name] = torch.zeros(tokens.shape, dtype=tokens.dtype)
    made: dict[int, Any] = {}
    for path, module in model.named_modules():
        packed = module.__dict__.get("ftlab_packed")
        for table in (module._parameters, module._buffers):
            for name, tensor in table.items():
                if tensor is None:
                    continue
                if id(tensor) not in made:
                    fake = _made(tensor, plan, packed if name == "weight" else None)
                    made[id(tensor)] = tensor, fake
                    own = names & {*path.split("."), name}
                    ledger.hold(fake, "adapters" if own else "weights")
                table[name] = made[id(tensor)][1]
        if packed is not None:
            module.__class__ = _Packed
            module.bits = recipe.quantization_bit
            module.constants = torch.empty(packed[1], dtype=torch.uint8)
            ledger.hold(module.constants, "constants")


def _made(tensor: Any, plan: Plan, packed: tuple[int, int] | None) -> Any:
    if packed is not None:
        return torch.nn.Parameter(torch.empty(packed[0], dtype=torch.uint8), requires_grad=False)
    exact = tensor.requires_grad and plan.autocast is not None
    fake = torch.empty(tensor.shape, dtype=torch.float32 if exact else tensor.dtype)
    if isinstance(tensor, torch.nn.Parameter):
        return torch.nn.Parameter(fake, tensor.requires_grad)
    return fake


class _Packed(torch.nn.Linear):
    """A stand-in for a quantized layer: its weights are as many bytes as they are, and each pass
    restores them, one layer at a time, in the precision of its input."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        shape = self.out_features, self.in_features
        out = _Restored.apply(input, self.weight, shape, self.bits == 8)
        out = out if self.bias is None else out + self.bias.to(out.dtype)
        return out.clone() if self.bits == 4 else out  # PEFT's layer of 4 bits copies


class _Restored(torch.autograd.Function):
    """Multiply with restored weights; like bitsandbytes, restore them again for the gradient."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, packed: Any, shape: Any, keep: bool) -> torch.Tensor:
        ctx.shape, ctx.input = shape, x if keep else None  # 8 bits keep it, as bitsandbytes does
        return linear(x, torch.zeros(shape, dtype=x.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        (grad,) = grads
        return grad @ torch.zeros(ctx.shape, dtype=grad.dtype), None, None, None


def _chunked(ledger: Ledger) -> Callable[..., Any]:
    """A model's forward with TRL's chunked loss, in which all tokens count. Chunks are alike, so
    a few are rehearsed, and their operations count for all."""
    from trl.trainer.sft_trainer import _chunk

    def whole_again(gradient: Any) -> None:
        ledger.times = 1.0

    def forward(self: Any, input_ids: Any = None, labels: Any = None, **options: Any) -> Any:
        options = {**options, "use_cache": False}
        hidden = self.base_model(input_ids=input_ids, **options).last_hidden_state
        hidden = hidden[..., :-1, :].reshape(-1, hidden.size(-1))
        labels, head = labels[..., 1:].reshape(-1), self.get_output_embeddings()
        order = (labels != -100).to(torch.int8).argsort(descending=True, stable=True)
        hidden, labels = hidden[order], labels[order]
        if hidden.requires_grad:
            hidden.register_hook(whole_again)
        softcap = getattr(self.config.get_text_config(), "final_logit_softcapping", None)
        loss, ahead = hidden.new_zeros((), dtype=torch.float32), min(len(hidden), FEW * CHUNK)
        ledger.times = len(hidden) / ahead
        for start in range(0, ahead, CHUNK):
            part = slice(start, start + CHUNK)
            rest = hidden[part], head.weight, head.bias, labels[part], 1.0, softcap
            loss = loss + checkpoint(_chunk, *rest, use_reentrant=False)[0]
        return SimpleNamespace(loss=loss / len(hidden))

    return forward


def _loss(model: Any, ids: torch.Tensor, plan: Plan) -> torch.Tensor:
    """The loss as transformers' Trainer computes it; accelerate makes outputs fp32 again."""
    call = model if plan.autocast is None or plan.chunked else convert_outputs_to_fp32(model)
    given: dict[str, Any] = {"input_ids": ids, "labels": ids, "use_cache": False}
    if plan.masked:
        given["attention_mask"] = torch.ones_like(ids)
        given["attention_mask"][:, -1] = 0
    with torch.autocast("cpu", plan.autocast) if plan.autocast else nullcontext():
        output = call(**given)
    return output.loss


@contextmanager
def _whole_rows() -> Iterator[None]:
    """Inside, transformers sees that nothing needs a mask; it would look at the fake numbers."""
    masks = (("is_tracing", lambda *_: False), ("find_packed_sequence_indices", lambda *_: None))
    with ExitStack() as stack:
        for name, answer in masks:
            stack.enter_context(patch.object(masking_utils, name, answer))
        yield


@contextmanager
def _marked(model: Any, chosen: list[int], ledger: Ledger) -> Iterator[None]:
    """Inside, the ledger is told which layer is computed, forward and backward."""
    holder, name = decoder_layers(model)
    layers, hooks = getattr(holder, name), []

    def comes(number: int) -> Callable[..., None]:
        def before(*_: Any) -> None:
            if not ledger.backward:  # a checkpointed layer is called again in the backward pass
                ledger.enter(f"forward, layer {number + 1}")

        return before

    def done(number: int, last: bool) -> Callable[..., None]:
        def after(module: Any, args: Any, output: Any) -> None:
            if ledger.backward:
                return
            hidden = output[0] if isinstance(output, tuple) else output
            if hidden.requires_grad:
                part = f"backward, layer {number + 1}"
                hidden.register_hook(lambda _: ledger.enter(part))
            if last:
                ledger.enter("loss")

        return after

    for i, layer in zip(chosen, layers, strict=True):
        hooks.append(layer.register_forward_pre_hook(comes(i)))
        hooks.append(layer.register_forward_hook(done(i, i == chosen[-1])))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def stepper(model: Any, recipe: Recipe, ledger: Ledger) -> Callable[[], Any]:
    """The recipe's optimizer with the state of earlier steps; call what is returned to step."""
    trained = [p for p in model.parameters() if p.requires_grad]
    ledger.component = "optimizer"
    if recipe.optim not in ("adamw_torch", "adamw_torch_fused", "sgd", "rmsprop"):
        whole = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
        states = [memory.state_bytes(p, recipe.optim, id(p) in whole) for p in trained]
        kept = [torch.empty(size, dtype=torch.uint8) for size in states]
        ledger.component = None
        return kept.clear  # the state is gone when the step is over, and not before
    optimizer = _plain_optimizer(model, trained, recipe)
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for parameter in trained:
        parameter.grad = None
    ledger.component = None
    return optimizer.step


def _plain_optimizer(model: Any, trained: list[Any], recipe: Recipe) -> torch.optim.Optimizer:
    unknown = [key for key in optimizers.PACKAGES if getattr(recipe, key)]
    if unknown:
        raise RecipeError(f"{unknown[0]}: how much this optimizer holds is not predicted.")
    if recipe.use_muon:
        return optimizers.Muon(model, recipe)
    if recipe.optim == "sgd":
        return torch.optim.SGD(trained)
    if recipe.optim == "rmsprop":
        return torch.optim.RMSprop(trained)
    return torch.optim.AdamW(trained, fused=True)
