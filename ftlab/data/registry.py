"""Names -> files -> `Data`: the datasets in dataset_info.json, and `read`."""

import os
import random
from pathlib import Path
from typing import Any

from ftlab.data.formats import Format, Names, choose, convert, explain, find_format
from ftlab.data.listing import Dataset, check_count, find, from_hub
from ftlab.data.read import Record, read_records
from ftlab.data.rows import Data
from ftlab.errors import DataError

__all__ = ["Data", "data_dir", "gather", "locate", "read"]


def data_dir() -> Path:
    """The folder of the shipped datasets: inside the installed package, else in the repository."""
    package = Path(__file__).parents[1]
    packed = package / "_data"
    return packed if packed.is_dir() else package.parent / "data"


def read(
    name_or_path: str | Path,
    *,
    dataset_dir: str | Path | None = None,
    on_bad_row: str = "stop",
    max_samples: int | None = None,
    formatting: str | None = None,
    columns: Names | None = None,
    tags: Names | None = None,
    encoding: str | None = None,
    online: bool = False,
) -> Data:
    """Read a file, a folder, or a dataset of dataset_info.json; several with commas between.

    on_bad_row: "stop" raises at the first bad row, "skip" collects it in `rejected`;
    max_samples: only the first rows of each dataset; formatting, columns, tags: as in
    dataset_info.json, and stronger than it and than what the rows look like; encoding: of text
    files that are not UTF-8, such as "gb18030"; online: load datasets that are named by a hub
    address from there (otherwise nothing reaches the network).
    Raises DataError with the file, the line, the field and what to do.
    """
    if on_bad_row not in ("stop", "skip"):
        raise DataError(f'read: on_bad_row={on_bad_row!r}. Fix: write "stop" or "skip".')
    given = {"formatting": formatting, "columns": columns, "tags": tags}
    text, folder = str(name_or_path), Path(dataset_dir) if dataset_dir else data_dir()
    names = [text] if os.path.exists(text) else [name.strip() for name in text.split(",")]
    parts = [gather(name, folder, given, max_samples, encoding, online) for name in names]
    for part in parts:
        if part.rejected and (on_bad_row == "stop" or not part):
            raise _refusal(part)
    data = parts[0]
    for part in parts[1:]:
        data.extend(part)
        data.rejected += part.rejected
        data.paths += part.paths
        data.rows_read += part.rows_read
    data.name = ",".join(Path(name).stem for name in names)
    data.reason = "; ".join(dict.fromkeys(part.reason for part in parts))
    plain = not (max_samples or encoding or online or any(given.values()))
    data.origin = text if plain else None
    data.check_one_kind()
    return data


def _refusal(data: Data) -> DataError:
    account = f"Of {data.rows_read} rows {len(data.rejected)} cannot be used"
    skip = '; on_bad_row="skip" reads the others.' if data else "."
    return DataError(f"{data.rejected[0]} {account}{skip}")


def gather(
    name: str,
    folder: Path,
    given: dict[str, Any],
    max_samples: int | None = None,
    encoding: str | None = None,
    online: bool = False,
) -> Data:
    """One dataset, with its bad rows in `rejected`, however many. DataError for unreadable files.

    given: what the caller says about the rows (formatting, columns, tags), stronger than what
    dataset_info.json in `folder` says.
    """
    check_count(max_samples, "read: max_samples")
    dataset = find(name, folder)
    formats = formats_of(dataset, given)
    if online and dataset.hubs:
        files, records = [], from_hub(dataset)
    else:
        files = files_of(dataset)
        records = [record for file in files for record in read_records(file, encoding)]
    records = _draw(dataset.renamed(records), dataset.num_samples)[:max_samples]
    found = convert(records, formats)
    data = Data(found.rows, Path(name).stem, files)
    data.rejected, data.rows_read = found.rejected, len(records)
    data.reason = explain(found, records)
    return data


def locate(name_or_path: str, dataset_dir: Path) -> list[tuple[Path, Format]]:
    """The files that `read` would take, each with the format of its rows."""
    found = []
    for name in name_or_path.split(","):
        dataset = find(name.strip(), dataset_dir)
        formats = formats_of(dataset, {})
        for file in files_of(dataset):
            form = find_format(dataset.renamed(read_records(file)), formats)
            found.append((file, form or formats[0]))
    return found


def formats_of(dataset: Dataset, given: dict[str, Any]) -> list[Format]:
    said = dataset.rows | {key: value for key, value in given.items() if value is not None}
    ranking = None if given.get("columns") else dataset.ranking
    return choose(
        said.get("formatting"), said.get("columns"), said.get("tags"), dataset.place, ranking
    )


def files_of(dataset: Dataset) -> list[Path]:
    """The file, or the files in a folder (not in folders below it) in order of their names."""
    path = dataset.file
    if dataset.hubs and (path is None or not path.exists()):
        where = " and ".join(f"{hub}:{name}" for hub, name in dataset.hubs.items())
        fix = 'pass online=True, or download it and name it as "file_name"'
        raise DataError(f"{dataset.place}: the rows are on a hub ({where}). Fix: {fix}.")
    if path is None:
        raise DataError(f'{dataset.place}: names no file. Fix: write "file_name": "FILE.json".')
    if not path.is_dir():
        return [path]
    skip = (".", "dataset_info.json")
    files = sorted(f for f in path.iterdir() if f.is_file() and not f.name.startswith(skip))
    if not files:
        raise DataError(f"{path}: the folder has no files. Fix: put data into it.")
    for file in files:
        if not file.resolve().is_relative_to(path.resolve()):
            raise DataError(f"{file}: the link leaves its folder. Fix: name the file itself.")
    return files


def _draw(found: list[Record], count: int | None) -> list[Record]:
    """`num_samples` as in LLaMA-Factory: a random choice, with repeats where rows are too few."""
    if count is None:
        return found
    chance = random.Random(42)
    drawn = chance.sample(found, min(count, len(found)))
    return drawn + chance.choices(found, k=count - len(drawn))
