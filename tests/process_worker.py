"""What each process of a test runs, started by torchrun: the jobs of a JSON file, one by one.

A job is a recipe, or the folder of a run to resume; `trouble` is what goes wrong in it. The first
process leaves what came of the jobs in a second file.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import ftlab
from ftlab import processes
from ftlab.train import CourseTrainer


class Trouble:
    """What goes wrong in a step of training, in the process that it happens to."""

    def __init__(self, kind: str) -> None:
        self.kind, self.plain = kind, CourseTrainer.compute_loss

    def __call__(self, trainer: Any, model: Any, inputs: Any, *args: Any, **options: Any) -> Any:
        loss = self.plain(trainer, model, inputs, *args, **options)
        if trainer.state.global_step == 2 and processes.index() == 1:
            if self.kind == "not finite":
                return loss * float("nan")
            if self.kind == "error":
                raise MemoryError("no memory is left")
        if trainer.state.global_step == 2 and self.kind == "told to end" and processes.first():
            os.kill(os.getppid(), signal.SIGTERM)  # torchrun
            self.kind = "told"
        return loss


def main(jobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Train each job; what each run is afterwards."""
    found, plain = [], CourseTrainer.compute_loss
    for job in jobs:
        trouble = Trouble(job.get("trouble", ""))
        CourseTrainer.compute_loss = lambda *args, _t=trouble, **kw: _t(*args, **kw)
        if "resume" in job:
            run = ftlab.resume(job["resume"])
        else:
            run = ftlab.train(ftlab.Recipe(**job["recipe"]), save=job.get("save", True))
        CourseTrainer.compute_loss = plain
        found.append({"status": run.status, "history": run.history, "summary": run.summary,
                      "folder": str(run.folder), "process": processes.index()})  # fmt: skip
        folders = processes.gathered(str(run.folder))
        assert len(set(folders)) == 1, folders
    return found


if __name__ == "__main__":
    results = main(json.loads(Path(sys.argv[1]).read_text()))
    if processes.first():
        Path(sys.argv[2]).write_text(json.dumps(results))
