"""Bytes -> rows, each with its file and line.

JSON and CSV are parsed here, not by Arrow, whose type inference depends on the order of rows.
Nothing is lost in silence: a line that is not a row comes out as a `Problem` in its place.
"""

import codecs
import csv
import gzip
import io
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ftlab.data.records import BadRow, Lines, Problem, Record
from ftlab.data.strict_json import json_rows, line_end, lines
from ftlab.errors import DataError

__all__ = ["BadRow", "Problem", "Record", "file_type", "read_records"]


def read_records(path: Path, encoding: str | None = None) -> list[Record]:
    """All rows of one file. Raises DataError where the file as a whole cannot be read."""
    kind, packed = file_type(path)
    data = read_bytes(path, packed)
    if kind in BINARY_READERS:
        rows = BINARY_READERS[kind](data, path)
    else:
        rows = TEXT_READERS[kind](decode(data, path, encoding), path)
    found = [Record(path, line, number, value) for number, (line, value) in enumerate(rows, 1)]
    if not found:
        ink = data.removeprefix(codecs.BOM_UTF8)
        reason = "has no rows" if ink.strip() else "has only blanks" if ink else "is empty"
        raise DataError(f"{path}: the file {reason}. Fix: write at least one row.")
    return found


def file_type(path: Path) -> tuple[str, bool]:
    """The file's type by its suffix, such as ".jsonl", and whether it is packed with gzip."""
    packed = path.suffix.lower() == ".gz"
    kind = (Path(path.stem) if packed else path).suffix.lower()
    if kind in TEXT_READERS or (kind in BINARY_READERS and not packed):
        return kind, packed
    known = ", ".join([*TEXT_READERS, *BINARY_READERS])
    raise DataError(f"{path}: unknown file type. Fix: ftlab knows {known}, and .gz of the text.")


LARGEST = 2**31  # bytes of one file, unpacked: a small .gz can hold any number of them


def read_bytes(path: Path, packed: bool) -> bytes:
    """The content of a file, unpacked where it is `packed`. Raises DataError, also past LARGEST."""
    try:
        with gzip.open(path) if packed else open(path, "rb") as file:
            data = file.read(LARGEST + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: not a whole gzip file ({error}). Fix: pack it again.") from None
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}. Fix: check the path.") from error
    if len(data) > LARGEST:
        raise DataError(f"{path}: holds more than {LARGEST >> 20} MiB. Fix: split the file.")
    return data


def decode(data: bytes, path: Path, encoding: str | None) -> str:
    """The text of a file. Nothing is guessed: UTF-8, or the encoding that the reader named."""
    if encoding is None and data.startswith((b"\xff\xfe", b"\xfe\xff")):
        fix = 'pass encoding="utf-16", or save it as UTF-8'
        raise DataError(f"{path}: the file is UTF-16, not UTF-8. Fix: {fix}.")
    if encoding is None and (zero := data.find(b"\0")) >= 0:
        line = data.count(b"\n", 0, zero) + 1
        reason = f"byte {zero} is NUL: UTF-16 or binary, not text"
        raise DataError(f"{path}:{line}: {reason}. Fix: save it as UTF-8 text.")
    try:
        return data.decode(encoding or "utf-8-sig").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        reason = f"byte {error.start} is not {(encoding or 'UTF-8').upper()}"
        fix = 'save it as UTF-8; if it is GBK, pass encoding="gb18030"'
        raise DataError(f"{path}:{line}: {reason}. Fix: {fix}.") from None
    except (LookupError, ValueError):
        fix = 'name one, such as "gb18030" or "utf-16"'
        raise DataError(f"encoding={encoding!r} is no text encoding. Fix: {fix}.") from None


def _text_rows(text: str, path: Path) -> Lines:
    """Each line that is not blank is a row, as in LLaMA-Factory."""
    for number, line in lines(text):
        yield number, {"text": line}


def _csv_rows(text: str, path: Path) -> Lines:
    """Rows of a table with a header line; every value is text."""
    csv.field_size_limit(LARGEST - 1)  # by default a cell ends the reading at 128 KiB
    head = text[: line_end(text, 0)]
    mark = "," if "," in head else next((mark for mark in ";\t" if mark in head), ",")
    table = csv.DictReader(io.StringIO(text, newline=""), strict=True, delimiter=mark)
    try:
        names = table.fieldnames or []
        if len(set(names)) < len(names):
            raise csv.Error("a column name appears twice")
        for row in table:
            cells = "".join(map(str, row.values()))  # the table knows the last line of a row
            uneven = None in row or None in row.values()
            problem = Problem("cells do not match the header", "quote cells that hold commas")
            yield table.line_num - cells.count("\n"), problem if uneven else row
    except csv.Error as error:
        raise DataError(
            f"{path}:{table.reader.line_num}: {error}. Fix: correct it or use JSONL."
        ) from None


def _parquet_rows(data: bytes, path: Path) -> Lines:
    import pyarrow
    import pyarrow.parquet as parquet

    file = _arrow(path, parquet.ParquetFile, pyarrow.BufferReader(data))
    return _batches(file.schema_arrow, file.iter_batches(1000, use_threads=False), path)


def _arrow_rows(data: bytes, path: Path) -> Lines:
    """The files in which `datasets` keeps its tables: an Arrow stream, or an Arrow file."""
    import pyarrow.ipc as ipc

    if data.startswith(b"ARROW1"):
        file = _arrow(path, ipc.open_file, data)
        return _batches(file.schema, map(file.get_batch, range(file.num_record_batches)), path)
    stream = _arrow(path, ipc.open_stream, data)
    return _batches(stream.schema, stream, path)


def _arrow(path: Path, call: Callable[[Any], Any], argument: Any) -> Any:
    """Arrow's answer; each of its many exceptions becomes the same DataError."""
    try:
        return call(argument)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        fix = "write the file again"
        raise DataError(f"{path}: not readable ({reason}). Fix: {fix}.") from None


def _batches(schema: Any, batches: Any, path: Path) -> Lines:
    """Rows of Arrow batches. They have no lines: the number of the row stands in for it."""
    if len(set(schema.names)) < len(schema.names):
        raise DataError(f"{path}: a column name appears twice. Fix: rename one of them.")
    number, batches = 0, iter(batches)
    while (batch := _arrow(path, lambda b: next(b, None), batches)) is not None:
        for row in _arrow(path, lambda b: b.to_pylist(), batch):
            yield (number := number + 1), row


# Each takes the content of a file and its path (for errors about the file as a whole).
TEXT_READERS: dict[str, Callable[[str, Path], Lines]] = {
    ".json": json_rows,
    ".jsonl": json_rows,
    ".txt": _text_rows,
    ".csv": _csv_rows,
    ".tsv": _csv_rows,
}
BINARY_READERS: dict[str, Callable[[bytes, Path], Lines]] = {
    ".parquet": _parquet_rows,
    ".arrow": _arrow_rows,
}
