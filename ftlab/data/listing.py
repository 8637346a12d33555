"""dataset_info.json, in LLaMA-Factory's form (an object of datasets) and in ms-swift's (a list)."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ftlab.data.formats import Names, check_keys
from ftlab.data.one_row import nearest
from ftlab.data.read import Problem, Record, read_records
from ftlab.errors import DataError

FILE = "dataset_info.json"


@dataclass(frozen=True)
class Dataset:
    """Where a dataset is, and what its entry says about the rows.

    rename: field of the file -> field to read it as (ms-swift; "_" and "-" leave it unused).
    """

    place: str
    file: Path | None = None
    hubs: Names = field(default_factory=dict)  # "hf", "ms" -> name there
    subset: str | None = None
    split: str = "train"
    folder: str | None = None
    num_samples: int | None = None
    ranking: bool | None = None
    rename: Names = field(default_factory=dict)
    rows: dict[str, Any] = field(default_factory=dict)  # formatting, columns, tags

    def renamed(self, records: list[Record]) -> list[Record]:
        """The records under the names that ms-swift's `columns` gives their fields."""
        return [self._renamed(record) for record in records] if self.rename else records

    def _renamed(self, record: Record) -> Record:
        row = record.value
        if not isinstance(row, dict):
            return record
        unused = ("_", "-")
        names = {key: self.rename.get(key, key) for key in row}
        names |= {key: key for key, name in names.items() if name in unused}
        if len(set(names.values())) < len(names):
            reason = f"two fields get one name by the columns of {self.place}"
            return record._replace(value=Problem(reason, "rename one of them"))
        return record._replace(value={names[key]: value for key, value in row.items()})


def find(name: str, folder: Path) -> Dataset:
    """The dataset of this name: a file comes first, then dataset_info.json, then a folder."""
    if os.path.isfile(name):
        return Dataset(name, Path(name))
    entries, parse = _entries(folder / FILE)
    if name in entries:
        return parse(entries[name], f"{folder / FILE}: {name}", folder)
    for path in (Path(name), folder / name, folder / name.removeprefix("data/")):
        if name and os.path.exists(path):
            return Dataset(name, path)
    beside = Path(name).parent
    files = [path.name for path in beside.iterdir()] if os.path.isdir(beside) else []
    close = nearest(name, entries) or nearest(Path(name).name, files)
    fix = f"did you mean {close!r}?" if close else "check the name."
    known = ", ".join(entries)
    raise DataError(f"{name!r}: no such dataset or file. Fix: {fix} Datasets: {known}.")


Parser = Callable[[Any, str, Path], Dataset]


def _entries(listing: Path) -> tuple[dict[str, Any], Parser]:
    """Name -> entry, unchecked until it is asked for, and the function that understands it."""
    if not listing.is_file():
        return {}, _llamafactory
    values = [record.value for record in read_records(listing)]
    if bad := next((v for v in values if not isinstance(v, dict)), None):
        raise DataError(f"{listing}: {bad}. Fix: write one object of datasets.")
    swift = {name: value for value in values for name in _swift_names(value)}
    if swift or len(values) > 1:
        return swift, _swift
    return values[0], _llamafactory


def _llamafactory(info: Any, place: str, folder: Path) -> Dataset:
    check_keys(info if isinstance(info, dict) else (), _LLAMAFACTORY, place)
    if not isinstance(info, dict) or not any(info.get(key) for key in _LLAMAFACTORY[:6]):
        raise DataError(f'{place}: names no file. Fix: write {{"file_name": "FILE.json"}}.')
    if closed := next((key for key in _CLOSED if key in info), None):
        raise DataError(f"{place}: ftlab does not read {closed!r}. Fix: {_CLOSED[closed]}.")
    check_count(info.get("num_samples"), f"{place}: num_samples")
    for key in ("file_name", "hf_hub_url", "ms_hub_url", "subset", "split", "folder"):
        if not isinstance(info.get(key, ""), str | None):
            raise DataError(f"{place}: {key}={info[key]!r}. Fix: write a text.")
    ranking = info.get("ranking", False if info.get("columns") else None)
    if not isinstance(ranking, bool | None):
        raise DataError(f"{place}: ranking={ranking!r}. Fix: write true or false.")
    file = folder / info["file_name"] if info.get("file_name") else None
    hubs = {hub: info[f"{hub}_hub_url"] for hub in ("hf", "ms") if info.get(f"{hub}_hub_url")}
    part = {key: info[key] for key in ("subset", "split", "folder") if info.get(key)}
    if file and not hubs and part not in ({}, {"split": "train"}):
        raise DataError(f"{place}: {part} says a part of a hub dataset. Fix: remove it.")
    rows = {key: info[key] for key in ("formatting", "columns", "tags") if info.get(key)}
    samples = info.get("num_samples")
    return Dataset(place, file, hubs, **part, num_samples=samples, ranking=ranking, rows=rows)


_LLAMAFACTORY = (
    "file_name", "hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name",
    "formatting", "ranking", "subset", "split", "folder", "num_samples", "columns", "tags",
)  # fmt: skip
_CLOSED = {
    "script_url": "run no code that came with data; save its rows as JSONL",
    "cloud_file_name": 'download it and name it as "file_name"',
}


def _swift_names(value: dict[str, Any]) -> list[str]:
    named = (value.get(key) for key in _SWIFT[:4])
    return [name for name in named if isinstance(name, str)]


def _swift(info: dict[str, Any], place: str, folder: Path) -> Dataset:
    check_keys(info, _SWIFT, place)
    columns, path = info.get("columns") or {}, info.get("dataset_path")
    if not isinstance(columns, dict) or not all(isinstance(v, str) for v in columns.values()):
        raise DataError(f'{place}: columns={columns!r}. Fix: {{"question": "query", ...}}.')
    parts = {}
    for key, name, usual in (("subsets", "subset", "default"), ("split", "split", "train")):
        given = info.get(key) or [usual]
        if not isinstance(given, list) or len(given) > 1 or not isinstance(given[0], str):
            raise DataError(f"{place}: {key}={given!r}. Fix: keep one of them, as a list of one.")
        parts[name] = given[0]
    subset = None if parts["subset"] == "default" else parts["subset"]
    hubs = {hub: info[f"{hub}_dataset_id"] for hub in ("hf", "ms") if info.get(f"{hub}_dataset_id")}
    file = folder / path if path else None
    return Dataset(place, file, hubs, subset, parts["split"], rename=columns)


_SWIFT = (
    "ms_dataset_id", "hf_dataset_id", "dataset_path", "dataset_name", "subsets", "split",
    "columns", "tags", "help", "huge_dataset", "ms_revision", "hf_revision",
)  # fmt: skip


def check_count(count: Any, place: str) -> None:
    """Raise DataError unless the count is a whole number above 0, or None."""
    if count is not None and (type(count) is not int or count < 1):
        raise DataError(f"{place}={count!r}. Fix: write a whole number above 0.")


# Hubs -------------------------------------------------------------------------------------------


def from_hub(dataset: Dataset) -> list[Record]:
    """The rows of a hub dataset; their number stands in for the line. Media stay closed."""
    wish = os.environ.get("USE_MODELSCOPE_HUB", "").lower() in ("1", "true")
    hub = "ms" if "ms" in dataset.hubs and (wish or "hf" not in dataset.hubs) else "hf"
    name = dataset.hubs[hub]
    if hub == "hf" and os.environ.get("HF_HUB_OFFLINE") == "1":
        raise DataError(
            f"{name}: HF_HUB_OFFLINE=1 forbids the network. Fix: ftlab.setup(online=True)."
        )
    try:
        table = _LOADERS[hub](dataset, name)
        batches = table.with_format("arrow").iter(1000)
        rows = [row for batch in batches for row in batch.to_pylist()]
    except Exception as error:  # whatever the hub's client raises
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise DataError(f"{name}: not loaded ({reason}). Fix: check name and network.") from error
    return [Record(Path(name), number, number, row) for number, row in enumerate(rows, 1)]


def _load_hf(dataset: Dataset, name: str) -> Any:
    from datasets import load_dataset

    return load_dataset(name, dataset.subset, data_dir=dataset.folder, split=dataset.split)


def _load_ms(dataset: Dataset, name: str) -> Any:
    from modelscope import MsDataset

    part = {"subset_name": dataset.subset, "data_dir": dataset.folder, "split": dataset.split}
    found = MsDataset.load(name, **{key: value for key, value in part.items() if value})
    return found.to_hf_dataset() if isinstance(found, MsDataset) else found


_LOADERS = {"hf": _load_hf, "ms": _load_ms}
