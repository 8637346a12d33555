"""Rows -> the batches that a trainer feeds to the model: encode, shorten, pack, pad.

The ids and labels are those of ``ftlab.encode``; nothing here changes one. Taught in
notebooks/04_loss_masking.ipynb.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import torch
from accelerate.data_loader import SeedableRandomSampler
from datasets import Dataset, concatenate_datasets, disable_progress_bars
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import RandomSampler, Sampler

from ftlab import chat, processes, templates
from ftlab.chat.fit import shortened, too_long
from ftlab.data import Data, read
from ftlab.errors import DataError, RecipeError
from ftlab.recipe import KNOBS, Recipe, rules
from ftlab.tokens import IGNORED, Encoded, EncodedPair

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Row = dict[str, Any]

# kind of rows -> the stages that can use them
STAGES = {
    "messages": ("sft", *rules.ONLINE), "text": ("pt",),
    "preference": (*rules.PAIRS, *rules.ONLINE), "kto": ("kto", *rules.ONLINE),
}  # fmt: skip
_WORDS = {"messages": "conversations", "text": "plain text", "preference": "preference pairs",
          "kto": "answers with a label (KTO)"}  # fmt: skip


@dataclass
class Report:
    """What became of the rows: ``rows == kept + deleted``; ``examples`` of them are trained on."""

    rows: int
    examples: int = 0
    deleted: list[str] = field(default_factory=list)
    shortened: list[str] = field(default_factory=list)
    split: list[str] = field(default_factory=list)
    of: list[int] = field(default_factory=list, repr=False)  # the row of each example
    notes: Counter[str] = field(default_factory=Counter)

    @property
    def kept(self) -> int:
        """Rows of which something is trained."""
        return self.rows - len(self.deleted)

    def notices(self) -> list[str]:
        """One sentence for each thing that was done to rows."""
        done = (
            (self.deleted, "left out, longer than cutoff_len"),
            (self.shortened, "without their earliest turns, to fit cutoff_len"),
            (self.split, "split into parts of at most cutoff_len tokens"),
        )
        lines = [
            f"{len(rows)} of {self.rows} rows {what} (the first: {rows[0]})."
            for rows, what in done
            if rows
        ]
        noted = [f"{n} of {self.rows} rows: {note}." for note, n in self.notes.most_common()]
        return lines + noted


def check_stage(stage: str, rows: Data) -> None:
    """RecipeError when the stage cannot use rows of this kind, DataError for several kinds."""
    rows.check_one_kind()
    kind = rows.kind
    if rows and stage not in STAGES[kind]:
        known = [other for other in STAGES[kind] if other in (KNOBS["stage"].choices or ())]
        fix = " or ".join(known) or f"{' or '.join(STAGES[kind])} (a later version of ftlab)"
        raise RecipeError(
            f"stage: {stage} and the data do not fit: these rows are {_WORDS[kind]}. "
            f"Use stage: {fix}, or other data."
        )


def training_rows(
    recipe: Recipe, data: Sequence[Row] | None, eval_data: Sequence[Row] | None
) -> tuple[Data, Data]:
    """The rows to train on and the rows held out, as the recipe's data keys say.

    Raises RecipeError when the stage cannot use rows of their kind.
    """
    if data is None:
        if not recipe.dataset:
            raise RecipeError(
                "dataset: the recipe names none and no data were passed. Set dataset."
            )
        data = _read(recipe)
    rows = data if isinstance(data, Data) else Data(data)
    if recipe.max_samples is not None:
        rows = rows.take(recipe.max_samples)
    if eval_data is None and recipe.eval_dataset:
        eval_data = read(recipe.eval_dataset, dataset_dir=recipe.dataset_dir)
    held_out = eval_data if isinstance(eval_data, Data) else Data(eval_data or [])
    if recipe.val_size and eval_data is None:
        rows, held_out = rows.split(recipe.val_size, seed=recipe.seed)
    if not rows:
        raise DataError("no rows to train on.")
    for part in (rows, held_out):
        check_stage(recipe.stage, part)
    return rows, held_out


def _read(recipe: Recipe) -> Data:
    """The recipe's datasets: one after the other, or drawn by turns."""
    assert recipe.dataset is not None
    if recipe.mix_strategy == "concat":
        return read(recipe.dataset, dataset_dir=recipe.dataset_dir)
    from ftlab.data.mix import interleave

    names = [name.strip() for name in recipe.dataset.split(",")]
    parts = [read(name, dataset_dir=recipe.dataset_dir) for name in names]
    return interleave(parts, recipe.shares, recipe.mix_strategy, seed=recipe.seed)


def prepared_tokenizer(tokenizer: PreTrainedTokenizerBase, recipe: Recipe) -> Any:
    """The tokenizer with the recipe's template, or as it is where the recipe names none."""
    if recipe.template is None:
        return tokenizer
    return templates.apply(tokenizer, recipe.template, recipe.default_system)


def check_parity(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], recipe: Recipe) -> None:
    """``chat.parity`` of the first rows: DataError where training would differ from serving."""
    for row in rows[:3] if recipe.stage not in rules.ONLINE else []:  # those read no answer
        if "text" not in row:
            row = chat.with_system(row, recipe.system_prompt)
            thinking, last_only = recipe.enable_thinking, recipe.mask_history
            chat.parity(tokenizer, row, mask_history=last_only, enable_thinking=thinking)


def encode_all(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], recipe: Recipe | _Options
) -> tuple[list[Any], Report]:
    """Every row as ``ftlab.encode`` gives it under the recipe's keys, and what became of the rows.

    A row longer than ``cutoff_len`` is an error that names it, or what ``truncation_strategy``
    says. Raises DataError when no row is left.
    """
    masking = chat.Masking(recipe.train_on_prompt, recipe.mask_history, recipe.enable_thinking)
    strategy, limit, report = recipe.truncation_strategy, recipe.cutoff_len, Report(len(rows))
    rows = [chat.with_system(row, recipe.system_prompt) for row in rows]
    one = partial(chat.example, tokenizer, masking=masking)
    whole = list(map(one, rows))
    lengths = sorted(map(len, whole))
    advice = f"; 95 % of the rows fit in {lengths[int(0.95 * (len(lengths) - 1))]} tokens"
    kept: list[Any] = []
    for number, (row, found) in enumerate(zip(rows, whole, strict=True), 1):
        parts = [found]
        if len(found) > limit:
            name = row.get("source", f"row {number}")
            if strategy == "error":
                longer = sum(length > limit for length in lengths)
                count = f"{longer} of {len(rows)} rows are longer than {limit} tokens{advice}."
                raise DataError(f"{too_long(row, len(found), limit)} {count}")
            parts = shortened(one, row, limit, strategy, recipe.mask_history)
            (
                report.split if len(parts) > 1 else report.shortened if parts else report.deleted
            ).append(name)
        kept += parts
        report.of += [number - 1] * len(parts)
        report.notes.update({note for part in parts for note in _notes(part)})
    if not kept:
        raise DataError(
            f"0 usable rows of {len(rows)}: all are longer than cutoff_len={limit}{advice}. "
            "Raise cutoff_len."
        )
    report.examples = len(kept)
    return kept, report


def _notes(part: Any) -> list[str]:
    return part.notes if isinstance(part, Encoded) else part.chosen.notes + part.rejected.notes


def dataset(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], recipe: Recipe
) -> tuple[Dataset, Report]:
    """Rows -> ``input_ids`` and ``labels`` (and ``seq_lengths`` where samples are packed).

    ``packing`` with stage sft, and ``neat_packing`` with any, put whole samples into windows of
    ``cutoff_len`` and keep attention inside each sample. Stage pt without ``neat_packing`` cuts one
    long stream of texts into windows, as pre-training does. The last eight results are kept.
    """
    values = {item.name: getattr(recipe, item.name) for item in fields(_Options)}
    return _dataset(_Fixed(rows, tokenizer), _Options(**values))


@dataclass(frozen=True)
class _Options:
    """The keys of a recipe on which ids and labels depend."""

    stage: str
    train_on_prompt: bool
    mask_history: bool
    enable_thinking: bool
    cutoff_len: int
    truncation_strategy: str
    packing: bool | None
    neat_packing: bool
    system_prompt: str | None


class _Fixed:
    """What was encoded, as a cache key by content: a panel encodes its data once, and a row that
    was edited in between is encoded anew."""

    def __init__(self, rows: Sequence[Row], tokenizer: Any) -> None:
        self.rows, self.tokenizer = rows, tokenizer
        self.key = (content_hash(rows), id(tokenizer), str(tokenizer.chat_template))

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Fixed) and self.key == other.key


@lru_cache(maxsize=8)
def _dataset(fixed: _Fixed, recipe: _Options) -> tuple[Dataset, Report]:
    tokenizer = fixed.tokenizer
    if recipe.stage in rules.ONLINE:
        return questions(tokenizer, fixed.rows, recipe)
    if recipe.stage == "pt" and recipe.packing is not False and not recipe.neat_packing:
        return _stream(tokenizer, fixed.rows, recipe.cutoff_len)
    examples, report = encode_all(tokenizer, fixed.rows, recipe)
    if recipe.stage in rules.PAIRS:
        return Dataset.from_dict(_pairs(examples)), report
    if recipe.stage == "kto":
        labels = [bool(fixed.rows[i]["label"]) for i in report.of]
        return Dataset.from_dict({**_labelled(examples), "label": labels}), report
    columns = {key: [getattr(e, key) for e in examples] for key in ("input_ids", "labels")}
    if not packs(recipe):
        return Dataset.from_dict(columns), report
    from trl import pack_dataset

    disable_progress_bars()
    # Best fit decreasing (Ding et al. 2024): the fullest window that still has room takes a sample.
    return pack_dataset(Dataset.from_dict(columns), recipe.cutoff_len, "bfd"), report


def _pairs(examples: Sequence[EncodedPair]) -> dict[str, list[Any]]:
    """``chosen_ids``, ``chosen_labels``, ``rejected_ids`` and ``rejected_labels``."""
    return {
        f"{side}_{name}": [getattr(getattr(example, side), key) for example in examples]
        for side in ("chosen", "rejected")
        for name, key in (("ids", "input_ids"), ("labels", "labels"))
    }


def _labelled(examples: Sequence[Encoded]) -> dict[str, list[Any]]:
    """``ids``, ``labels``, and ``KL_ids``, ``KL_labels``: the question with another one's answer.

    KTO estimates from these how far the model strays (Ethayarajh et al. 2024, section 4.1). The
    other question is the last before it that is not the same.
    """
    starts = [next(i for i, x in enumerate(e.labels) if x != IGNORED) for e in examples]
    asked = [e.input_ids[:start] for e, start in zip(examples, starts, strict=True)]
    ids: list[list[int]] = []
    labels: list[list[int]] = []
    for i, start in enumerate(starts):
        others = (j % len(examples) for j in range(i - 1, i - len(examples), -1))
        j = next((j for j in others if asked[j] != asked[i]), i)
        ids.append(asked[i] + examples[j].input_ids[starts[j] :])
        labels.append([IGNORED] * start + examples[j].labels[starts[j] :])
    return {
        "ids": [e.input_ids for e in examples], "labels": [e.labels for e in examples],
        "KL_ids": ids, "KL_labels": labels,
    }  # fmt: skip


def packs(recipe: Recipe | _Options) -> bool:
    """Whether whole samples share windows, with attention kept inside each."""
    return recipe.neat_packing or bool(recipe.packing and recipe.stage != "pt")


def _stream(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], window: int
) -> tuple[Dataset, Report]:
    """All texts, each closed by end-of-text, cut into windows of ``window`` tokens."""
    examples = [chat.example(tokenizer, row, chat.Masking()) for row in rows]
    ids = [i for example in examples for i in example.input_ids]
    windows = [ids[start : start + window] for start in range(0, len(ids), window)]
    report = Report(len(rows), len(windows), notes=Counter(n for e in examples for n in e.notes))
    return Dataset.from_dict({"input_ids": windows, "labels": windows}), report


def questions(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], recipe: Recipe | _Options
) -> tuple[Dataset, Report]:
    """What the model is asked in each row: ``prompt``, the ids up to the last answer, and ``row``,
    the row itself as JSON, for the reward. A question longer than ``cutoff_len`` is an error, or
    left out with ``truncation_strategy: delete``.
    """
    report, columns = Report(len(rows)), {"prompt": [], "row": []}  # type: ignore[var-annotated]
    for row in rows:
        row = chat.with_system(row, recipe.system_prompt)
        ids = chat.prompt_ids(
            tokenizer, chat.asked(row), tools=row.get("tools"),
            enable_thinking=recipe.enable_thinking,
        )  # fmt: skip
        if len(ids) > recipe.cutoff_len:
            if recipe.truncation_strategy != "delete":
                raise too_long(row, len(ids), recipe.cutoff_len, "the question")
            report.deleted.append(row.get("source", "a row"))
            continue
        columns["prompt"].append(ids)
        columns["row"].append(json.dumps(row, default=str))
    if not columns["prompt"]:
        raise DataError(f"0 usable rows of {len(rows)}: all questions are longer than cutoff_len.")
    report.examples = len(columns["prompt"])
    return Dataset.from_dict(columns), report


class PackedCollator:
    """Packed windows -> tensors [windows, longest].

    Positions start anew with every sample and there is no attention mask: so transformers knows
    where samples begin and keeps attention inside them
    (transformers.masking_utils.find_packed_sequence_indices), unless the model is called with a
    cache: pass `use_cache=False`, as the trainer does. ``flat``: one window after the other in a
    single row, where Unsloth finds the samples.
    """

    def __init__(self, pad_id: int, *, flat: bool = False) -> None:
        self.pad_id, self.flat = pad_id, flat

    def __call__(self, windows: Sequence[Row]) -> dict[str, torch.Tensor]:
        lists: dict[str, list[list[int]]] = {"input_ids": [], "labels": [], "position_ids": []}
        for window in windows:
            positions = [p for length in window["seq_lengths"] for p in range(length)]
            # The last token of one sample must not learn to begin the next.
            firsts = zip(window["labels"], positions, strict=True)
            lists["input_ids"].append(window["input_ids"])
            lists["labels"].append([label if p else IGNORED for label, p in firsts])
            lists["position_ids"].append(positions)
        if self.flat:
            lists = {key: [[i for row in rows for i in row]] for key, rows in lists.items()}
        # A padding token at position 0 is a sample of its own.
        fill = {"input_ids": self.pad_id, "labels": IGNORED, "position_ids": 0}
        batch = {
            key: pad_sequence([torch.tensor(x) for x in rows], True, fill[key])
            for key, rows in lists.items()
        }
        tokens = sum(map(len, lists["input_ids"]))
        return {**batch, "tokens": torch.tensor([tokens])}


def evened(rows: Dataset, recipe: Recipe) -> Dataset:
    """The rows, and for several processes blank ones after them, so that all have full batches.

    Of a blank row nothing is trained. Without them accelerate would repeat rows at the end of an
    epoch, and the losses would not be those of one process.
    """
    missing = -len(rows) % (recipe.per_device_train_batch_size * processes.count())
    if processes.count() == 1 or not missing:
        return rows
    blank = {"input_ids": rows[0]["input_ids"][:1], "labels": [IGNORED], "seq_lengths": [1]}
    columns = {key: [blank[key]] * missing for key in rows.column_names}
    return concatenate_datasets([rows, Dataset.from_dict(columns, features=rows.features)])


class BlanksLast(Sampler[int]):
    """The order that a sampler gives the rows, then the blank rows of ``evened``."""

    def __init__(self, sampler: Any, rows: Dataset) -> None:
        if isinstance(sampler, RandomSampler):  # as accelerate would make of it
            sampler = SeedableRandomSampler(sampler.data_source, generator=sampler.generator)
        self.sampler, self.rows = sampler, rows

    def __iter__(self) -> Iterator[int]:
        yield from self.sampler
        yield from range(len(self.sampler), len(self.rows))

    def __len__(self) -> int:
        return len(self.rows)

    def set_epoch(self, epoch: int) -> None:
        """Each epoch has an order of its own."""
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)


def blanks(batch: dict[str, torch.Tensor]) -> int:
    """How many rows of a batch are blank ones of ``evened``, of one token each."""
    if processes.count() == 1 or "labels" not in batch:
        return 0
    return int((batch["labels"] == IGNORED).all(1).sum())


Sides = dict[str, tuple[str, ...]]
PAIR_SIDES: Sides = {"": ("chosen_", "rejected_")}
LABEL_SIDES: Sides = {"": ("",), "KL_": ("KL_",)}


class AnswerCollator:
    """Rows of stage dpo or kto -> tensors [rows, longest], named as TRL's trainers read them.

    ``completion_mask`` is 1 where a token is trained, so not on a tool's result. With
    ``PAIR_SIDES`` the first half of the rows are the chosen answers, the second the rejected.
    """

    def __init__(self, pad_id: int, sides: Sides) -> None:
        self.pad_id, self.sides = pad_id, sides

    def __call__(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        # one number a row: KTO's label, the reference's log-probabilities
        single = [key for key, value in rows[0].items() if isinstance(value, bool | float)]
        batch = {key: torch.tensor([row[key] for row in rows]) for key in single}
        for name, sides in self.sides.items():
            ids = [torch.tensor(row[f"{side}ids"]) for side in sides for row in rows]
            labels = [torch.tensor(row[f"{side}labels"]) for side in sides for row in rows]
            batch[f"{name}input_ids"] = pad_sequence(ids, True, self.pad_id)
            whole = [torch.ones_like(one) for one in ids]
            batch[f"{name}attention_mask"] = pad_sequence(whole, True, 0)
            answers = (pad_sequence(labels, True, IGNORED) != IGNORED).long()
            batch[f"{name}completion_mask"] = answers
        return batch


def content_hash(rows: Sequence[Row]) -> str:
    """sha256 over the rows' content."""
    return hashlib.sha256(json.dumps(list(rows), sort_keys=True, default=str).encode()).hexdigest()
