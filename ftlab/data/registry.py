"""Names -> files -> `Data`: the datasets in dataset_info.json, and `read`."""

import html
import os
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ftlab.data.formats import Format, Names, Row, check_keys, choose, convert, nearest
from ftlab.data.read import BadRow, Record, read_records
from ftlab.errors import DataError


class Data(list[Row]):
    """Rows in TRL's conversational format, and the account of how they were read.

    Each row is `{"messages": [{"role", "content"}, ...]}` or `{"text"}`, with its `source` (file
    and line) and the `extra` fields of the file. `rows_read == len(data) + len(rejected)`.
    """

    def __init__(self, rows: Iterable[Row], name: str = "data", paths: Iterable[Path] = ()) -> None:
        super().__init__(rows)
        self.name, self.paths = name, list(paths)
        self.rejected: list[BadRow] = []
        self.rows_read = len(self)
        self.origin: str | None = None  # what `read` was given; None for a part of it

    def split(self, share_or_count: float, seed: int = 42) -> tuple["Data", "Data"]:
        """(train, held out): a share below 1 or a count of rows, drawn by the seed, in file order.

        >>> train, held_out = Data([{"text": "a"}, {"text": "b"}, {"text": "c"}]).split(1)
        >>> len(train), len(held_out)
        (2, 1)
        """
        count = int(round(len(self) * share_or_count) if share_or_count < 1 else share_or_count)
        if not 0 < count < len(self):
            reason = f"split({share_or_count}) of {len(self)} rows leaves one side empty"
            raise DataError(f"{self.name}: {reason}. Fix: choose a share or count between.")
        held_out = set(random.Random(seed).sample(range(len(self)), count))
        sides: tuple[list[Row], list[Row]] = ([], [])
        for index, row in enumerate(self):
            sides[index in held_out].append(row)
        return self._part(sides[0], "split"), self._part(sides[1], "split")

    def take(self, n: int) -> "Data":
        """The first n rows, or all where there are fewer."""
        return self._part(self[: max(n, 0)], f"take({n})")

    def where(self, predicate: Callable[[Row], Any]) -> "Data":
        """The rows for which the predicate holds."""
        return self._part(filter(predicate, self), "where(...)")

    def _part(self, rows: Iterable[Row], call: str) -> "Data":
        part = Data(rows, self.name, self.paths)
        if not part:
            raise DataError(f"{self.name}: {call} leaves no row of {len(self)}. Fix: ask for more.")
        return part

    def __repr__(self) -> str:
        return f"Data({self.name!r}: {len(self)} rows, {len(self.rejected)} rejected)"

    def _repr_html_(self) -> str:
        cells = []
        for row in self[:5]:
            turns = row.get("messages") or [{"role": "text", "content": row.get("text", "")}]
            lines = [f"{t['role']}: {t['content'][:200]}" for t in turns]
            text = "<br>".join(html.escape(line) for line in lines)
            source = html.escape(row.get("source", ""))
            cells.append(f'<tr><td>{source}</td><td dir="auto" align="left">{text}</td></tr>')
        return f"<p>{html.escape(repr(self))}</p><table>{''.join(cells)}</table>"


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
) -> Data:
    """Read a file, a folder, or a dataset of dataset_info.json; several with commas between.

    on_bad_row: "stop" raises at the first bad row, "skip" collects it in `rejected`;
    max_samples: only the first rows of each dataset; formatting, columns, tags: as in
    dataset_info.json, and stronger than it and than what the rows look like.
    Raises DataError with the file, the line, the field and what to do.
    """
    if on_bad_row not in ("stop", "skip"):
        raise DataError(f'read: on_bad_row={on_bad_row!r}. Fix: write "stop" or "skip".')
    _check_count(max_samples, "read: max_samples")
    text, folder = str(name_or_path), Path(dataset_dir) if dataset_dir else data_dir()
    names = [text] if os.path.exists(text) else [name.strip() for name in text.split(",")]
    given = {"formatting": formatting, "columns": columns, "tags": tags}
    data = Data([], ",".join(Path(name).stem for name in names))
    data.origin = None if max_samples or any(given.values()) else text
    for name in names:
        path, info = _find(name, folder)
        info |= {key: value for key, value in given.items() if value is not None}
        formats = choose(info.get("formatting"), info.get("columns"), info.get("tags"), name)
        files = _files(path)
        found = [record for file in files for record in read_records(file)]
        found = _draw(found, info.get("num_samples"))[:max_samples]
        rows, rejected = convert(found, formats)
        if rejected and (on_bad_row == "stop" or not rows):
            account = f"Of {len(found)} rows {len(rejected)} cannot be used"
            skip = '; on_bad_row="skip" reads the others.' if rows else "."
            raise DataError(f"{rejected[0]} {account}{skip}")
        data.extend(rows)
        data.rejected += rejected
        data.paths += files
        data.rows_read += len(found)
    _check_one_kind(data)
    return data


def locate(name_or_path: str, dataset_dir: Path) -> list[tuple[Path, Format]]:
    """The files that `read` would take, each with the format of its first row."""
    found = []
    for name in name_or_path.split(","):
        path, info = _find(name.strip(), dataset_dir)
        formats = choose(info.get("formatting"), info.get("columns"), info.get("tags"), name)
        for file in _files(path):
            first = read_records(file)[0].value
            found.append((file, next((f for f in formats if f.claims(first)), formats[0])))
    return found


def _find(name: str, folder: Path) -> tuple[Path, dict[str, Any]]:
    """The file or folder of a dataset, and its entry in dataset_info.json. A file comes first."""
    if os.path.isfile(name):
        return Path(name), {}
    listing = folder / "dataset_info.json"
    known = read_records(listing)[0].value if listing.is_file() else {}
    if not isinstance(known, dict):
        raise DataError(f"{listing}: {known}. Fix: write one object of datasets.")
    if name in known:
        info = _check_info(known[name], f"{listing}: {name}")
        return folder / info["file_name"], dict(info)
    for path in (Path(name), folder / name, folder / name.removeprefix("data/")):
        if name and os.path.exists(path):
            return path, {}
    beside = Path(name).parent
    files = [path.name for path in beside.iterdir()] if os.path.isdir(beside) else []
    close = nearest(name, known) or nearest(Path(name).name, files)
    fix = f"did you mean {close!r}?" if close else "check the name."
    raise DataError(f"{name!r}: no such dataset or file. Fix: {fix} Datasets: {', '.join(known)}.")


def _check_info(info: Any, place: str) -> dict[str, Any]:
    known = ("file_name", "formatting", "columns", "tags", "num_samples")
    check_keys(info if isinstance(info, dict) else (), known, place)
    if not isinstance(info, dict) or not isinstance(info.get("file_name"), str):
        raise DataError(f'{place}: names no file. Fix: write {{"file_name": "FILE.json"}}.')
    _check_count(info.get("num_samples"), f"{place}: num_samples")
    return info


def _check_count(count: Any, place: str) -> None:
    if count is not None and (type(count) is not int or count < 1):
        raise DataError(f"{place}={count!r}. Fix: write a whole number above 0.")


def _files(path: Path) -> list[Path]:
    """The file, or the files in a folder (not in folders below it) in order of their names."""
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


def _check_one_kind(data: Data) -> None:
    origin = {"text" in row: row["source"] for row in data}
    if len(origin) > 1:
        reason = f"{origin[True]} is plain text and {origin[False]} is a conversation"
        raise DataError(f"{reason}. Fix: read them one at a time.")
