"""A run in a process of its own: there Unsloth is imported first, and here its patches never are.

The parent writes a folder with the recipe and the rows, starts this module on it with ``python
-m``, and reads the events that the child appends to a file there: ``ftlab.train`` returns the same
Run, tells the same observers and stops at the same word as a run in this process.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftlab import errors
from ftlab.recipe import Recipe

if TYPE_CHECKING:
    from ftlab.run import Observer, Run

WORK = "job.json"
EVENTS = "events.jsonl"
STOP = "stop"
OUTPUT = "output.txt"
PAUSE = 0.05  # seconds between two looks at the events


@dataclass
class Job:
    """What the child is to do: train ``recipe`` on ``rows``, or resume the run in a folder."""

    recipe: Recipe
    rows: Sequence[dict[str, Any]] = ()
    held_out: Sequence[dict[str, Any]] = ()
    save: bool = True
    resume: Path | None = None
    notices: list[str] = field(default_factory=list)


def run(
    job: Job,
    observers: Sequence[Observer] = (),
    stop: threading.Event | None = None,
    *,
    quiet: bool = False,
) -> Run:
    """Do ``job`` in a process of its own and return its Run, with the model loaded plainly here.

    Raises what the child raised of ftlab's errors; EnvironmentProblem with the end of its output
    where it ended without a word.
    """
    from ftlab.guards import interrupt_sets

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise errors.EnvironmentProblem(
            "use_unsloth: among several processes each has to import Unsloth first. Start them "
            "with ftlab train, as in torchrun ... -m ftlab.cli train FILE.yaml."
        )
    stop, folder = stop or threading.Event(), Path(tempfile.mkdtemp(prefix="ftlab-run-"))
    child = None
    try:
        _write(job, folder)
        child = _start(folder)
        with interrupt_sets(stop) as interrupted:
            found = _watch(job, folder, child, observers, stop, quiet)
        if interrupted.is_set() and found.status == "stopped":
            found.status = "interrupted"
        return _loaded(found, job.save)
    finally:
        if child is not None and child.poll() is None:
            child.kill()
            child.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _write(job: Job, folder: Path) -> None:
    values = job.recipe.to_dict()
    if not job.save:
        values |= {"output_dir": str(folder / "run"), "save_strategy": "no"}
    work = {
        "recipe": values, "resume": str(job.resume) if job.resume else None, "parent": os.getpid(),
    }  # fmt: skip
    for name, rows in (("rows", job.rows), ("held_out", job.held_out)):
        lines = "".join(json.dumps(row, default=str) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    (folder / WORK).write_text(json.dumps(work), encoding="utf-8")


def _start(folder: Path) -> subprocess.Popen[bytes]:
    """The child, outside this process's group: Ctrl-C is for the parent, which asks it to stop."""
    here = str(Path(__file__).resolve().parents[1])
    paths = [here, *filter(None, [os.environ.get("PYTHONPATH")])]
    with (folder / OUTPUT).open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "ftlab.engine.apart", str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            start_new_session=True,
        )


def _watch(
    job: Job,
    folder: Path,
    child: subprocess.Popen[bytes],
    observers: Sequence[Observer],
    stop: threading.Event,
    quiet: bool,
) -> Run:
    """Follow the child to its end: its events become this process's Run and observers' calls."""
    from ftlab.run import Run

    found, begun, ended = Run(job.recipe, None, None, "run"), False, False
    try:
        for kind, value in _events(folder, child, stop):
            if kind == "error":
                raise getattr(errors, value["kind"])(value["message"])
            if kind == "log":
                found.history = [r for r in found.history if r["step"] != value["step"]] + [value]
                _tell(observers, "on_log", found, value)
                continue
            _take(found, value, job, quiet)
            if kind == "start":
                begun = True
                _tell(observers, "on_start", found)
            ended = kind == "end"
    finally:
        if begun:
            _tell(observers, "on_end", found)
    if not ended:
        tail = (folder / OUTPUT).read_text(encoding="utf-8", errors="replace").strip()
        raise errors.EnvironmentProblem(
            f"the run's own process ended early (exit code {child.returncode}). The end of its "
            f"output:\n{tail[-2000:]}"
        )
    return found


def _tell(observers: Sequence[Observer], what: str, *values: Any) -> None:
    for observer in observers:
        getattr(observer, what)(*values)


def _events(
    folder: Path, child: subprocess.Popen[bytes], stop: threading.Event
) -> Iterator[tuple[str, Any]]:
    """The child's events as they come, until it has ended; ``stop`` is passed on to it."""
    path, place, over = folder / EVENTS, 0, False
    while not over:
        over = child.poll() is not None  # before reading: what it wrote last is still read
        if stop.is_set():
            (folder / STOP).touch()
        if path.is_file():
            with path.open(encoding="utf-8") as file:
                file.seek(place)
                while (line := file.readline()).endswith("\n"):
                    place = file.tell()
                    yield from json.loads(line).items()
        if not over:
            time.sleep(PAUSE)


_TOLD = ("name", "status", "summary", "notices", "total_steps", "machine", "history")


def _take(run: Run, value: dict[str, Any], job: Job, quiet: bool) -> None:
    """Take over what the child says of its run, and say what is new in it."""
    before = run.notices
    for name in _TOLD:
        setattr(run, name, value[name])
    run.notices = [*job.notices, *run.notices]
    for notice in [] if quiet else run.notices[len(before) :]:
        print(notice, file=sys.stderr)
    run.folder = Path(value["folder"])


def _loaded(run: Run, keep: bool) -> Run:
    """The run with the model that it left, loaded without Unsloth."""
    from ftlab.batches import prepared_tokenizer
    from ftlab.models import load_for

    full = run.recipe.finetuning_type == "full"
    changes = {"engine": "transformers", "adapter": [] if full else [str(run.folder)]}
    named = run.recipe.replace(model_name_or_path=str(run.folder)) if full else run.recipe
    run.model, tokenizer = load_for(named, **changes)
    run.tokenizer = prepared_tokenizer(tokenizer, run.recipe)
    run.folder = run.folder if keep else None
    return run


class _Reporter:
    """The observer in the child: writes events, ends the run when asked to or left alone."""

    def __init__(self, folder: Path, parent: int) -> None:
        self.folder, self.parent, self.stop = folder, parent, threading.Event()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while not (self.folder / STOP).exists() and os.getppid() == self.parent:
            time.sleep(PAUSE)
        self.stop.set()

    def tell(self, kind: str, value: Any) -> None:
        with (self.folder / EVENTS).open("a", encoding="utf-8") as file:
            file.write(json.dumps({kind: value}) + "\n")

    def state(self, run: Run) -> dict[str, Any]:
        told = {name: getattr(run, name) for name in _TOLD}
        return {**told, "folder": str(run.folder)}

    def on_start(self, run: Run) -> None:
        self.tell("start", self.state(run))

    def on_log(self, run: Run, record: dict[str, float]) -> None:
        self.tell("log", record)

    def on_end(self, run: Run) -> None:
        pass  # only a run that has returned has ended well


def main(folder: Path) -> int:
    """The child: do the job that lies in ``folder``, with Unsloth imported before all else."""
    work = json.loads((folder / WORK).read_text(encoding="utf-8"))
    reporter = _Reporter(folder, work["parent"])
    try:
        from ftlab.engine.pick import begin

        begin()
        reporter.tell("end", reporter.state(_done(work, folder, reporter)))
    except errors.Error as error:
        reporter.tell("error", {"kind": type(error).__name__, "message": str(error)})
        return 2
    return 0


def _done(work: dict[str, Any], folder: Path, reporter: _Reporter) -> Run:
    from ftlab.data import Data
    from ftlab.train import resume, train

    if work["resume"]:
        return resume(work["resume"], observers=[reporter], stop=reporter.stop)
    rows, held_out = (
        Data(map(json.loads, (folder / f"{name}.jsonl").read_text("utf-8").splitlines()))
        for name in ("rows", "held_out")
    )
    return train(
        Recipe(**work["recipe"]), rows, eval_data=held_out, observers=[reporter],
        stop=reporter.stop, quiet=True,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
