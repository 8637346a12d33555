"""The data panel: check a file, walk through the places that were found, see a row as tokens.

A view only. Plain-function twins: `ftlab.diagnose(name)` and `ftlab.encode(tokenizer, row)`.
Taught in notebooks/03_data_formats.ipynb.
"""

from __future__ import annotations

import json
import sys
from html import escape
from threading import Event
from typing import Any

import ipywidgets as w

import ftlab
from ftlab.data.formats import convert
from ftlab.panels.style import CSS
from ftlab.panels.worker import Worker

ALL = "all rows"
OWN = "the tokenizer's own"


class Still:
    """What the panel shows, for readers without a kernel; terminals get the words."""

    def __init__(self, html: str, words: str) -> None:
        self.html, self.words = html, words

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return self.words


class DataPanel:
    """A dataset's report and its rows, around `ftlab.diagnose` and `ftlab.encode`.

    `name` is what `ftlab.read` takes. With a `tokenizer`, lengths are tokens and each row is shown
    token by token. `options` go to `ftlab.diagnose` (cutoff_len, against, columns, ...).
    `foreground=True` checks inside the callback, as on Google Colab. Data are read when you press
    Check, or call `check()`; `wait()` re-raises what that raised.
    """

    def __init__(
        self,
        name: str = "",
        *,
        tokenizer: Any = None,
        foreground: bool | None = None,
        **options: Any,
    ) -> None:
        self.tokenizer, self.options = tokenizer, options
        self.report: Any = None
        in_colab = "google.colab" in sys.modules
        self._worker = Worker(
            self._check, foreground=in_colab if foreground is None else foreground
        )
        self._places: list[int] = []  # numbers of the records to walk through
        self._build(name)
        self._say("Ready. Press Check.")

    def check(self) -> None:
        """Read and examine the data that the panel names."""
        self._worker.request()

    def wait(self, timeout: float | None = None) -> DataPanel:
        """Wait for the check to end; raise what it raised, or TimeoutError after `timeout` s."""
        self._worker.wait(timeout)
        return self

    def show(self, cause: str = ALL, number: int = 1, **toggles: Any) -> DataPanel:
        """Go to a row from code, as a hand would: `panel.show("control", 2, mask_history=True)`."""
        self.cause.value = cause
        self.number.value = number
        for name, value in toggles.items():
            self.toggles[name].value = value
        return self

    def still(self) -> Still:
        """Report and row as they are shown now."""
        if self.report is None:
            return Still(self._report.value, "not checked yet")
        return Still(f"{self.report._repr_html_()}{self._row.value}", str(self.report))

    def close(self) -> None:
        """Take the panel off the page."""
        self._worker.stop()
        self.widget.close()

    def _ipython_display_(self) -> None:
        from IPython.display import display

        view = {"version_major": 2, "version_minor": 0, "model_id": self.widget.model_id}
        words = "Data panel: the controls appear when you run this cell."
        display({"application/vnd.jupyter.widget-view+json": view, "text/plain": words}, raw=True)

    def _check(self, stop: Event) -> None:
        self._say("Checking …")
        try:
            self.report = ftlab.diagnose(
                self.name.value.strip(), tokenizer=self.tokenizer, **self.options
            )
        except ftlab.Error as error:
            self.report, self._places, self._row.value = None, [], ""
            self._say(str(error), bad=True)
            return
        view = self.report._repr_html_()
        self._report.value = f"<div style='max-height:330px;overflow:auto'>{view}</div>"
        causes = [(f"{code} ({count:,})", code) for code, count in self.report.counts.items()]
        self.cause.options = [(f"{ALL} ({self.report.rows_read:,})", ALL), *causes]
        self._choose()

    def _choose(self, change: Any = None) -> None:
        """The rows of the chosen cause."""
        if self.report is None or self.cause.value is None:
            return
        records = self.report.records
        at = {(record.path, record.number): i for i, record in enumerate(records)}
        found = self.report.where(self.cause.value)
        rows = dict.fromkeys(at[one.path, one.row] for one in found if one.row)
        self._places = list(range(len(records))) if self.cause.value == ALL else list(rows)
        self.number.max = max(len(self._places), 1)
        self.number.value = 1
        self._draw()

    def _draw(self, change: Any = None) -> None:
        """The chosen row: what was found in it, what the file has, what the model would read."""
        if self.report is None or not self._places:
            self._row.value = ""
            return
        record = self.report.records[self._places[min(self.number.value, len(self._places)) - 1]]
        found = [
            one
            for one in self.report.findings
            if (one.path, one.row) == (record.path, record.number)
        ]
        lines = "".join(f"<li>{escape(str(one))}</li>" for one in found)
        value = record.value
        shown = repr(value) if isinstance(value, Exception) else _pretty(value)
        self._row.value = (
            f"<div class='ftlab-group'>{escape(record.path.name)}:{record.line}</div>"
            f"<ul>{lines}</ul><pre style='white-space:pre-wrap' dir='auto'>{escape(shown)}</pre>"
            f"{self._tokens(record)}"
        )

    def _tokens(self, record: Any) -> str:
        if self.tokenizer is None:
            return "<div class='ftlab-help'>Pass tokenizer=... to see this row as tokens.</div>"
        try:
            rows = convert([record], self.report.doctor.formats).rows
            if not rows:
                return ""
            names = ("train_on_prompt", "mask_history")
            chosen = {name: self.toggles[name].value for name in names}
            return ftlab.encode(self._tokenizer(), rows[0], **chosen)._repr_html_()
        except ftlab.Error as error:
            return f"<div class='ftlab-bad'>{escape(str(error))}</div>"

    def _tokenizer(self) -> Any:
        if self.toggles["template"].value == OWN:
            return self.tokenizer
        from ftlab import templates

        return templates.apply(self.tokenizer, self.toggles["template"].value)

    def _build(self, name: str) -> None:
        from ftlab import templates

        wide: dict[str, Any] = {
            "style": {"description_width": "auto"},
            "layout": w.Layout(width="auto", margin="0 14px 4px 0"),
        }
        self.name = w.Text(value=str(name), description="file or dataset", **wide)
        self.button = w.Button(description="Check", button_style="primary")
        self.button.on_click(lambda _: self.check())
        self.button.add_class("ftlab-button")
        self.cause = w.Dropdown(options=[(ALL, ALL)], value=ALL, description="rows", **wide)
        self.number = w.IntSlider(value=1, min=1, max=1, description="number", **wide)
        self.number.layout = w.Layout(width="260px", margin="0 14px 4px 0")
        self.toggles = {
            name: w.Checkbox(value=False, description=name, indent=False, layout=wide["layout"])
            for name in ("train_on_prompt", "mask_history")
        }
        self.toggles["template"] = w.Dropdown(
            options=[OWN, *templates.NAMES], value=OWN, description="template", **wide
        )
        self.cause.observe(self._choose, names="value")
        for control in (self.number, *self.toggles.values()):
            control.observe(self._draw, names="value")
        self._report, self._row = w.HTML(), w.HTML()
        wrap = w.Layout(flex_flow="row wrap")
        walk = w.HBox([self.cause, self.number, *self.toggles.values()], layout=wrap)
        top = w.HBox([self.name, self.button], layout=wrap)
        parts = [w.HTML(CSS), top, self._report, walk, self._row]
        self.widget = w.VBox(parts, layout=w.Layout(max_width="980px"))
        self.widget.add_class("ftlab-panel")

    def _say(self, words: str, bad: bool = False) -> None:
        kind = "ftlab-bad" if bad else "ftlab-status"
        self._report.value = f"<div class='{kind}' role='status'>{escape(words)}</div>"


def _pretty(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1, default=str)
