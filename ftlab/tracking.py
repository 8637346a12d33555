"""SwanLab as an observer of a run: same curves, offline unless the recipe says otherwise.

Taught in notebooks/07_sft.ipynb.
"""

from __future__ import annotations

import os
from typing import Any

from IPython.utils.capture import capture_output

from ftlab.errors import EnvironmentProblem
from ftlab.recipe import Recipe
from ftlab.run import Run


class SwanLab:
    """Sends each logged step to SwanLab. A tracker that fails never stops training: the reason
    goes to ``run.notices`` and the run goes on untracked."""

    def __init__(self, recipe: Recipe) -> None:
        # Without a key SwanLab would ask with input(), which blocks a notebook.
        os.environ.setdefault("SWANLAB_INTERACTIVE", "false")
        try:
            import swanlab
        except ImportError as error:
            raise EnvironmentProblem(
                "use_swanlab: true needs the package swanlab: pip install 'ftlab[track]'"
            ) from error
        self.swanlab, self.recipe, self.live = swanlab, recipe, False

    def on_start(self, run: Run) -> None:
        """Open the experiment, with the recipe as its configuration."""
        self._try(run, self._open, run)

    def on_log(self, run: Run, record: dict[str, float]) -> None:
        """Log one record of the history."""
        if self.live:
            values = {key: value for key, value in record.items() if key != "step"}
            self._try(run, self.swanlab.log, values, step=int(record["step"]))

    def on_end(self, run: Run) -> None:
        """Close the experiment."""
        if self.live:
            self._try(run, self._close)
            self.live = False

    def _open(self, run: Run) -> None:
        recipe = self.recipe
        given = {"workspace": recipe.swanlab_workspace, "log_dir": recipe.swanlab_logdir}
        if self.swanlab.has_run():  # an earlier run that never ended
            self.swanlab.finish()
        with capture_output(stderr=False):  # its greetings name folders of this machine
            self.swanlab.init(
                project=recipe.swanlab_project,
                name=recipe.swanlab_run_name or run.name,
                mode=recipe.swanlab_mode,
                config=recipe.to_dict(),
                **{key: value for key, value in given.items() if value is not None},
            )
        self.live = True

    def _close(self) -> None:
        with capture_output(stderr=False):
            self.swanlab.finish()

    def _try(self, run: Run, action: Any, *args: Any, **kwargs: Any) -> None:
        try:
            action(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - whatever a tracker raises, training goes on
            self.live = False
            run.notices.append(f"SwanLab: {error}. The run goes on without tracking.")
