"""The data panel without a browser: what a learner's hands do is setting values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import ftlab
from ftlab.panels import data_panel
from ftlab.panels.data import OWN
from tests.widgets import check_shared


@pytest.fixture
def path(tmp_path: Path) -> Path:
    rows = [
        {"instruction": "Where is Oslo?", "output": "In Norway, by a fjord."},
        {"instruction": "Where is Lima?", "output": "In Peru, near the sea.</s>"},
        {"instruction": "Where is it?", "output": ""},
        {"instruction": "<img src=x>Who?", "output": "Nobody that I know of.</s>"},
    ]
    path = tmp_path / "my.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def make(path: Any, **options: Any) -> Any:
    panel = data_panel(str(path), foreground=True, **options)
    panel.button.click()
    return panel.wait(60)


def test_pressing_check_shows_the_report_of_diagnose(path: Path) -> None:
    panel = data_panel(str(path), foreground=True)
    assert panel.report is None and "Press Check" in panel._report.value
    panel.button.click()
    assert panel.still()._repr_html_().startswith(ftlab.diagnose(path)._repr_html_())
    assert repr(panel.still()) == str(ftlab.diagnose(path))


def test_walking_through_the_rows_of_one_cause(path: Path) -> None:
    panel = make(path)
    panel.show("end token in answer")
    assert panel.number.max == 2 and "my.jsonl:2" in panel._row.value
    panel.number.value = 2
    assert "my.jsonl:4" in panel._row.value and "a control token" in panel._row.value
    panel.show("empty")
    assert panel.number.value == panel.number.max == 1 and "my.jsonl:3" in panel._row.value


def test_a_row_as_tokens_is_the_view_of_encode(path: Path, tiny: tuple[Any, Any]) -> None:
    panel = make(path, tokenizer=tiny[1])
    row = ftlab.read(path, on_bad_row="skip")[0]
    assert ftlab.encode(tiny[1], row)._repr_html_() in panel._row.value
    panel.show(train_on_prompt=True)
    assert ftlab.encode(tiny[1], row, train_on_prompt=True)._repr_html_() in panel._row.value
    from ftlab import templates

    other = templates.apply(tiny[1], "alpaca")
    panel.show(template="alpaca", train_on_prompt=False)
    assert ftlab.encode(other, row)._repr_html_() in panel._row.value
    panel.show(template=OWN)
    assert ftlab.encode(tiny[1], row)._repr_html_() in panel._row.value


def test_text_from_the_file_is_escaped(path: Path) -> None:
    panel = make(path).show("end token in answer", 2)
    assert "&lt;img" in panel._row.value and "<img" not in panel.still()._repr_html_()


def test_what_cannot_be_read_is_said_in_the_panel(path: Path) -> None:
    panel = make("nowhere.jsonl")
    assert "ftlab-bad" in panel._report.value and "nowhere" in panel._report.value
    panel.name.value = str(path)
    panel.button.click()
    assert panel.report.rows_read == 4


def test_only_what_both_ipywidgets_share_is_used(path: Path) -> None:
    seen = check_shared(make(path).widget)
    assert {"Text", "Button", "Dropdown", "IntSlider", "Checkbox", "HTML"} <= seen
