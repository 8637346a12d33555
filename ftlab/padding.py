"""What a batch computes and what of it counts: the order of the rows, padding, packing.

A batch is a rectangle: its shorter rows are padded to its longest, and a model computes padding as
it computes tokens. Taught in notebooks/17_speed_and_memory.ipynb.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from torch.utils.data import RandomSampler, Sampler, SequentialSampler

from ftlab import batches
from ftlab.errors import RecipeError
from ftlab.recipe import Recipe, rules
from ftlab.tokens import IGNORED

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Rows are sorted by length within parts of so many groups: enough to save nearly all padding, few
# enough that the order stays random.
FEWEST, MOST = 8, 50


class LengthGroups(Sampler[int]):
    """Row numbers such that ``size`` neighbors (the rows of one optimizer step) are about as long.

    Each epoch draws a new order from seed and epoch number alone, so that a resumed run goes on in
    the order of the one that stopped (transformers' LengthGroupedSampler draws it from PyTorch's
    own generator, and groups come longest first throughout). The group with the longest row comes
    first: what does not fit in memory fails at once; the others come in random order.
    """

    def __init__(self, lengths: Sequence[int], size: int, seed: int) -> None:
        self.lengths, self.size, self.seed, self.epoch = list(lengths), size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer as each epoch begins."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        chance = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(len(self.lengths), generator=chance).tolist()
        at_once = self.size * max(FEWEST, min(len(order) // (4 * self.size), MOST))
        ordered: list[int] = []
        for start in range(0, len(order), at_once):
            part = order[start : start + at_once]
            ordered += sorted(part, key=self.lengths.__getitem__, reverse=True)
        whole = len(order) // self.size * self.size
        groups = [ordered[start : start + self.size] for start in range(0, whole, self.size)]
        groups = [groups[i] for i in torch.randperm(len(groups), generator=chance).tolist()]
        if groups:
            longest = max(range(len(groups)), key=lambda i: self.lengths[groups[i][0]])
            groups.insert(0, groups.pop(longest))
        return iter([row for group in groups for row in group] + ordered[whole:])


def grouped(recipe: Recipe) -> bool:
    """Whether the recipe's rows come in groups of like length: not packed windows, which are of
    one length anyway, and not questions, which are answered first."""
    asked = recipe.train_sampling_strategy == "group_by_length"
    return asked and recipe.stage not in rules.ONLINE and not windows(recipe)


def windows(recipe: Recipe) -> bool:
    """Whether rows share windows of ``cutoff_len``: packed, or cut from one stream of texts."""
    stream = recipe.stage == "pt" and recipe.packing is not False
    return stream or batches.packs(recipe)


def lengths(rows: Dataset) -> list[int]:
    """Tokens of each row of ``batches.dataset``; of a pair, those of the longer answer, because
    both are padded together."""
    columns = [rows[name] for name in rows.column_names if name.endswith("ids")]
    return [max(map(len, sides)) for sides in zip(*columns, strict=True)]


@dataclass(frozen=True)
class Tokens:
    """One pass over the data: what is computed (``positions``) and what of it counts.

    ``positions == tokens + padding``; ``trained`` of the tokens have a loss. ``fill`` is the share
    of the windows' room (``cutoff_len`` each) that packing filled, None without packing.
    """

    rows: int
    batches: int
    positions: int
    tokens: int
    trained: int
    fill: float | None = None

    @property
    def padding(self) -> int:
        """Positions that hold no token."""
        return self.positions - self.tokens

    @property
    def useful(self) -> float:
        """Share of the positions that hold a token."""
        return self.tokens / self.positions


def token_report(
    recipe: Recipe, data: Sequence[dict[str, Any]], tokenizer: PreTrainedTokenizerBase
) -> dict[str, Tokens]:
    """What the first epoch computes when rows are ``padded``, ``grouped``, ``packed`` (pt, sft) or
    cut from one ``stream`` (pt), in the batches of one process that the recipe would train on.

    Raises RecipeError for stages that sample their own answers.

    >>> import ftlab
    >>> from ftlab.padding import token_report
    >>> rows, tokenizer = ftlab.read("world_qa").take(64), ftlab.load("tiny")[1]
    >>> found = token_report(ftlab.Recipe(cutoff_len=128), rows, tokenizer)
    >>> found["padded"].padding > found["grouped"].padding > found["packed"].padding
    True
    """
    if recipe.stage in rules.ONLINE:
        raise RecipeError(f"stage: {recipe.stage} samples its rows; their lengths are not known.")
    single = recipe.stage in ("pt", "sft")
    plain = {"packing": False, "neat_packing": False} if single else {}
    ways: dict[str, dict[str, Any]] = {
        "padded": {**plain, "train_sampling_strategy": "random"},
        "grouped": {**plain, "train_sampling_strategy": "group_by_length"},
    }
    if single and recipe.finetuning_type not in rules.PROMPTS:
        ways["packed"] = {"neat_packing": True}
    if recipe.stage == "pt":
        ways["stream"] = {"packing": True, "neat_packing": False}
    tokenizer = batches.prepared_tokenizer(tokenizer, recipe)
    return {way: count(recipe.replace(**keys), data, tokenizer) for way, keys in ways.items()}


def count(recipe: Recipe, data: Sequence[dict[str, Any]], tokenizer: Any) -> Tokens:
    """The tokens of the first epoch of this recipe."""
    rows, _ = batches.dataset(tokenizer, data, recipe)
    sides = [name for name in rows.column_names if name in _IDS]
    sizes = list(zip(*([len(ids) for ids in rows[name]] for name in sides), strict=True))
    order, size = list(sampler(recipe, rows)), recipe.per_device_train_batch_size
    groups = [order[start : start + size] for start in range(0, len(order), size)]
    positions = sum(
        len(group) * len(sides) * max(max(sizes[row]) for row in group) for group in groups
    )
    tokens = sum(map(sum, sizes))
    room = len(rows) * recipe.cutoff_len if windows(recipe) else None
    # A reward model learns from one number for each answer, at its last token.
    trained = 2 * len(rows) if recipe.stage == "rm" else _trained(rows)
    fill = tokens / room if room else None
    return Tokens(len(data), len(groups), positions, tokens, trained, fill)


# columns of ids that are computed with gradients (KTO's mismatched answers are not)
_IDS = {"input_ids": "labels", "ids": "labels", "chosen_ids": "chosen_labels",
        "rejected_ids": "rejected_labels"}  # fmt: skip


def _trained(rows: Dataset) -> int:
    """Tokens that have a loss: labeled ones, less the first of each sample, which nothing stands
    before."""
    total = 0
    for name in rows.column_names:
        if name in _IDS:
            for labels, starts in zip(rows[_IDS[name]], _starts(rows, name), strict=True):
                total += sum(x != IGNORED for x in labels)
                total -= sum(labels[start] != IGNORED for start in starts)
    return total


def _starts(rows: Dataset, name: str) -> Iterator[list[int]]:
    if "seq_lengths" not in rows.column_names:
        yield from ([0] for _ in rows[name])
        return
    for sizes in rows["seq_lengths"]:
        yield [sum(sizes[:i]) for i in range(len(sizes))]


def sampler(recipe: Recipe, rows: Dataset, processes: int = 1) -> Sampler[int]:
    """The order in which a run visits its rows, as its trainer would draw it."""
    if grouped(recipe):
        size = recipe.per_device_train_batch_size * recipe.gradient_accumulation_steps * processes
        return LengthGroups(lengths(rows), size, recipe.seed)
    if recipe.train_sampling_strategy == "sequential":
        return SequentialSampler(rows)
    # accelerate seeds a random order anew for each epoch (SeedableRandomSampler).
    return RandomSampler(rows, generator=torch.Generator().manual_seed(recipe.seed))
