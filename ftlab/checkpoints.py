"""Write, verify and find checkpoints and run folders: files are written beside and renamed.

A folder counts only when its manifest is there and every file has the size and sha256 it names.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from ftlab.errors import CheckpointError, EnvironmentProblem

MANIFEST = "manifest.json"
LOCK = "run.lock"
BASE = "base.json"  # beside an adapter: which weights it was trained on


def new_run_folder(output_dir: str | None, name: str, *, overwrite: bool) -> Path:
    """Make and lock the folder of a run; an earlier run in it is moved aside or refused."""
    folder = Path(output_dir) if output_dir else _free_name(Path("runs"), name)
    try:
        if folder.exists() and not folder.is_dir():
            raise CheckpointError(f"{folder}: output_dir is a file. Choose another folder.")
        if folder.is_dir() and any(folder.iterdir()):
            _refuse_if_locked(folder)
            if not overwrite:
                raise CheckpointError(
                    f"{folder}: output_dir is in use by an earlier run. Choose another output_dir, "
                    "or set overwrite_output_dir: true (the earlier run is moved aside)."
                )
            folder.rename(_free_name(folder.parent, f"{folder.name}-replaced"))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / LOCK).write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
    except OSError as error:
        raise CheckpointError(
            f"{folder}: cannot write there ({error.strerror}). Choose another output_dir."
        ) from error
    return folder


def unlock(folder: Path) -> None:
    """Let other processes use the folder."""
    (folder / LOCK).unlink(missing_ok=True)


def require_space(folder: Path, needed: int) -> None:
    """Raise EnvironmentProblem unless ``needed`` bytes are free where ``folder`` lies."""
    there = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise EnvironmentProblem(
            f"{folder}: {free / 1e6:.0f} MB of disk are free, this run may need "
            f"{needed / 1e6:.0f} MB. Free some space or choose another output_dir."
        )


@contextlib.contextmanager
def written_whole(target: Path) -> Iterator[Path]:
    """Give a temporary folder; on success it gets a manifest and becomes ``target``.

    On any failure nothing is left behind; a full disk raises CheckpointError with numbers.
    """
    temporary = target.with_name(f".{target.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        write_manifest(temporary)
        if target.exists():
            shutil.rmtree(target)
        os.replace(temporary, target)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if error.errno != errno.ENOSPC:
            raise
        free = shutil.disk_usage(target.parent).free
        raise CheckpointError(
            f"{target}: the disk is full ({free / 1e6:.0f} MB free). Earlier checkpoints are whole."
        ) from error
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def write_manifest(folder: Path) -> None:
    """Record size and sha256 of every file below ``folder``; written last, it proves the rest."""
    files = {
        str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (MANIFEST, LOCK)
    }
    write_text(folder / MANIFEST, json.dumps({"files": files}, indent=1))


def verify(folder: Path) -> None:
    """Raise CheckpointError when a file of the manifest is missing or changed."""
    manifest = folder / MANIFEST
    if not manifest.is_file():
        raise CheckpointError(
            f"{folder}: no {MANIFEST}, so this folder was not written to its end."
        )
    for name, expected in json.loads(manifest.read_text())["files"].items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{path}: missing, though the manifest names it.")
        if path.stat().st_size != expected["bytes"] or sha256(path) != expected["sha256"]:
            raise CheckpointError(f"{path}: changed or damaged since it was written.")


def newest(run_folder: Path) -> tuple[Path | None, list[str]]:
    """The newest verified checkpoint of a run, and one sentence for each that was skipped."""
    skipped: list[str] = []
    for checkpoint in reversed(_by_step(run_folder)):
        try:
            verify(checkpoint)
            return checkpoint, skipped
        except CheckpointError as error:
            skipped.append(str(error))
    return None, skipped


def rotate(run_folder: Path, keep: int | None) -> None:
    """Delete the oldest checkpoints, never the newest ``keep``."""
    for checkpoint in _by_step(run_folder)[: -keep if keep else 0]:
        shutil.rmtree(checkpoint)


def write_text(path: Path, text: str) -> None:
    """Write a text file beside and rename it, so that readers never see half of it."""
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def copy_base_record(run_folder: Path, folder: Path) -> None:
    """Put the base record of an adapter's run into a folder that is being written."""
    if (run_folder / BASE).is_file():
        shutil.copyfile(run_folder / BASE, folder / BASE)


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _by_step(run_folder: Path) -> list[Path]:
    return sorted(run_folder.glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[-1]))


def _free_name(parent: Path, name: str) -> Path:
    """``parent/<time>-<name>``, with a counter when two start in the same second."""
    stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{name}"
    candidates = (parent / (stem if n == 0 else f"{stem}-{n}") for n in range(10_000))
    return next(path for path in candidates if not path.exists())


def _refuse_if_locked(folder: Path) -> None:
    lock = folder / LOCK
    if not lock.is_file():
        return
    owner = json.loads(lock.read_text())
    alive = owner["host"] != socket.gethostname() or psutil.pid_exists(owner["pid"])
    if alive:
        raise CheckpointError(
            f"{folder}: a run (process {owner['pid']} on {owner['host']}) is writing here. "
            "Choose another output_dir."
        )
