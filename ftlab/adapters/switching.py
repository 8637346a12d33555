"""Several adapters in one model: switched, combined, swapped, one for each prompt of a batch.

PEFT does the work. What is added are the guards: an adapter of another base, of another method or
with damaged weights, and four faults of PEFT 0.21 that pass in silence, each held by a test in
tests/test_adapter_set.py. Taught in notebooks/08_lora.ipynb.
"""

from __future__ import annotations

import contextlib
import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from html import escape
from pathlib import Path
from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from torch import nn
from transformers import PreTrainedTokenizerBase

from ftlab import checkpoints
from ftlab.adapters import combination
from ftlab.adapters.cards import (
    AdapterCard,
    AdapterCards,
    describe,
    did_you_mean,
    read_base_record,
    targets,
)
from ftlab.adapters.folders import adapter_config, load_adapter
from ftlab.base import base_record, check_base
from ftlab.errors import CheckpointError, ModelError
from ftlab.generate import BASE, Prompt, generate

# Ways to start LoRA that also change the base's weights, for this adapter and all others.
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga", "kasa")
_NONE = "__base__"  # PEFT's word for a row without adapter


class AdapterSet:
    """A base model with several adapters of one method in it, one of them active at a time.

    ``model`` is a model without adapter, such as ``ftlab.load`` gives; its layers are wrapped in
    place, its weights stay as they are. ``self.model`` answers with the active adapter.

    >>> from ftlab import load
    >>> model, tokenizer = load("tiny")
    >>> AdapterSet(model).names
    []
    """

    def __init__(self, model: Any) -> None:
        if hasattr(model, "peft_config"):
            raise ModelError(
                "AdapterSet: this model has an adapter already. Load the base alone, "
                "ftlab.load(NAME), then add(name, folder) each adapter."
            )
        self.model = model
        self.cards: dict[str, AdapterCard] = {}

    @property
    def names(self) -> list[str]:
        """The names of the adapters, in the order in which they came."""
        return list(self.cards)

    @property
    def active(self) -> str | None:
        """The name of the adapter that answers; None without any."""
        return str(self.model.active_adapter) if self.cards else None

    def add(self, name: str, folder: str | Path) -> AdapterCard:
        """Load the adapter in ``folder`` under ``name``; the first one added is active.

        Raises ModelError (the set stays as it was) for a name in use, a folder that cannot be
        loaded, an adapter of another base or method, or one that would change the base.
        """
        self._new_name(name)
        card, folder = describe(folder, name), Path(folder)
        if card.fault:
            raise ModelError(card.fault)
        self._check_new(adapter_config(folder), folder)
        active = self.active
        try:
            with _no_warnings():
                self.model = load_adapter(self.model, folder, name)
        except ModelError:
            self._drop(name)
            raise
        self.cards[name] = card
        self.use(active or name)
        return card

    def use(self, name: str) -> None:
        """Make this adapter the one that answers; its weights stay frozen."""
        self._known(name)
        self.model.set_adapter(name, inference_mode=True)

    @contextlib.contextmanager
    def off(self) -> Iterator[None]:
        """Inside the block the base answers, exactly as without adapters."""
        with self.model.disable_adapter() if self.cards else contextlib.nullcontext():
            yield

    def generate(
        self,
        tokenizer: PreTrainedTokenizerBase,
        prompts: Sequence[Prompt],
        names: Sequence[str | None],
        **options: Any,
    ) -> list[str]:
        """Answer each prompt with the adapter named beside it, None for the base.

        Options as in ``ftlab.generate``. LoRA rows of several adapters share a batch
        (Linear layers compute the base once); other methods, and DoRA, take turns.
        """
        if len(prompts) != len(names):
            raise ModelError(f"generate: {len(prompts)} prompts, {len(names)} adapter names.")
        for name in {name for name in names if name is not None}:
            self._known(name)
        if self.cards and all(self._mixes(name) for name in names):
            chosen = [name or _NONE for name in names]
            return generate(self.model, tokenizer, prompts, adapter_names=chosen, **options)
        answers = [""] * len(prompts)
        for turn in dict.fromkeys(names):
            rows = [row for row, name in enumerate(names) if name == turn]
            share = [prompts[row] for row in rows]
            found = generate(self.model, tokenizer, share, adapter=turn or BASE, **options)
            for row, answer in zip(rows, found, strict=True):
                answers[row] = answer
        return answers

    def combine(
        self,
        name: str,
        weights: Mapping[str, float],
        *,
        method: str = "cat",
        density: float | None = None,
        rank: int | None = None,
        seed: int = 0,
    ) -> float:
        """Make a new LoRA adapter out of others: ``combine("both", {"style": 1, "facts": 0.5})``.

        ``cat`` is the weighted sum of their changes, exactly, with the sum of their ranks; ``svd``
        its best approximation of ``rank`` (by default the largest of theirs). ``linear`` weights A
        and B apart, so that A of one adapter also meets B of the other. ``ties``, ``dare_*`` and
        ``magnitude_prune`` keep a share ``density`` of the values (TIES, arXiv:2306.01708; DARE,
        arXiv:2311.03099; ``seed`` draws what DARE drops), with ``_svd`` those of the changes as
        in the papers, without it those of A and B. PEFT's ``add_weighted_adapter`` computes.

        Returns how far the result is from the weighted sum: the norm of the difference, divided
        by the norm of the sum, over all layers. Raises ModelError for what cannot be combined.
        """
        self._new_name(name)
        for source in weights:
            self._known(source)
        error = combination.combine(
            self.model, name, weights, method=method, density=density, rank=rank, seed=seed
        )
        config = self.model.peft_config[name]
        parts = " + ".join(f"{weight:g} {source}" for source, weight in weights.items())
        size = combination.size(self.model, name)
        self.cards[name] = replace(
            self.cards[next(iter(weights))],
            name=name,
            folder=Path(),
            method="LoRA",
            rank=config.r,
            alpha=config.lora_alpha,
            targets=targets(config.to_dict()),
            parameters=size[0],
            bytes=size[1],
            made_by=f"{method}: {parts}",
        )
        return error

    def replace(self, name: str, folder: str | Path) -> AdapterCard:
        """Put another adapter in the place of ``name``; the old one stays if the new one fails."""
        self._known(name)
        active, spare = self.active, name + "-new"
        while spare in self.cards:
            spare += "-new"
        self.add(spare, folder)  # PEFT's hot-swap in place would not undo a failure
        self.remove(name)
        card = self.add(name, folder)
        self.remove(spare)
        self.use(active or name)
        return card

    def remove(self, name: str) -> None:
        """Take an adapter out; without any the model is the base again."""
        self._known(name)
        del self.cards[name]
        self._drop(name)

    def save(
        self,
        name: str,
        folder: str | Path,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> Path:
        """Write an adapter as a PEFT folder that ftlab, PEFT and ``ftlab.merge`` load.

        Raises CheckpointError where ``folder`` exists. ``tokenizer`` travels with it if given.
        """
        self._known(name)
        out = Path(folder)
        if out.exists() or out.is_symlink():
            raise CheckpointError(f"{out}: exists already. Choose another folder.")
        record = base_record(self.model, self.cards[name].base)
        with checkpoints.written_whole(out) as temporary, _no_warnings():
            self.model.save_pretrained(temporary, selected_adapters=[name])
            if name != "default":
                for path in (temporary / name).iterdir():
                    path.replace(temporary / path.name)
                (temporary / name).rmdir()
            if tokenizer is not None:
                tokenizer.save_pretrained(temporary)
            checkpoints.write_text(temporary / checkpoints.BASE, json.dumps(record))
        return out

    def __repr__(self) -> str:
        return f"AdapterSet, active: {self.active}\n{AdapterCards(self.cards.values())}"

    def _repr_html_(self) -> str:
        table = AdapterCards(self.cards.values())._repr_html_()
        return f"<p>active: {escape(str(self.active))}</p>{table}"

    def _new_name(self, name: str) -> None:
        if name in self.cards:
            raise ModelError(
                f"{name!r}: the set has an adapter of this name. Choose another name, or use "
                "replace(name, folder)."
            )
        # Names become attributes of torch modules.
        taken = name in (BASE, _NONE) or hasattr(nn.ModuleDict(), name)
        if taken or not re.fullmatch(r"[\w-]+", name):
            raise ModelError(
                f"{name!r}: no name for an adapter. Use letters, digits, '-' and '_', neither "
                "'base' nor a method of torch.nn.ModuleDict such as 'keys'."
            )

    def _known(self, name: str) -> None:
        if name not in self.cards:
            near = did_you_mean(get_close_matches(str(name), self.names, n=1))
            there = ", ".join(self.names) or "none"
            raise ModelError(f"{name!r}: no adapter of this name.{near} There are: {there}.")

    def _check_new(self, config: dict[str, Any], folder: Path) -> None:
        if (folder / checkpoints.MANIFEST).is_file():
            checkpoints.verify(folder)
        start = str(config.get("init_lora_weights")).lower()
        start = "kasa" if config.get("kasa_config") is not None else start
        if start.startswith(_CHANGES_BASE):
            raise ModelError(
                f"{folder}: a LoRA that starts as {start!r} changes the base's weights, also for "
                "the other adapters. Save it as plain LoRA (PEFT: save_pretrained with "
                "path_initial_model_for_weight_conversion), or load it alone."
            )
        kinds = {
            name: c.peft_type.value for name, c in getattr(self.model, "peft_config", {}).items()
        }
        for name, kind in kinds.items():
            if kind != config.get("peft_type"):
                raise ModelError(
                    f"{folder}: a {config.get('peft_type')} adapter cannot join {name!r}, a {kind} "
                    "adapter: one set holds one method. Make a second AdapterSet."
                )
        check_base(self.model, "this model", folder, read_base_record(folder))

    def _mixes(self, name: str | None) -> bool:
        """Whether rows of this adapter may share a batch with rows of others."""
        if name is None:
            return True
        config = self.model.peft_config[name]
        lora = config.peft_type.value == "LORA"
        return bool(lora and not config.use_dora and not config.modules_to_save)

    def _drop(self, name: str) -> None:
        """Remove an adapter, or what is left of one that could not be added."""
        if self.cards:
            if name in self.model.peft_config:
                if self.active == name:
                    self.use(self.names[0])
                self.model.delete_adapter(name)
            return
        model = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        for place, module in list(model.named_modules()):
            if isinstance(module, BaseTunerLayer):
                model.set_submodule(place, module.get_base_layer())
            elif isinstance(module, AuxiliaryTrainingWrapper):
                model.set_submodule(place, module.original_module)
        vars(model).pop("peft_config", None)
        self.model = model


@contextlib.contextmanager
def _no_warnings() -> Iterator[None]:
    """Quiet about what is checked here: PEFT warns of ties, names and missing keys."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
