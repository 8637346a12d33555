"""What every committed notebook keeps to, and one run on a kernel as old as Colab's."""

from __future__ import annotations

import os
import re
import statistics
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import KernelManager
from nbformat import NotebookNode

from tools import notebooks as tool

ROOT = Path(__file__).resolve().parents[1]
PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
COLAB = ROOT / ".venv-colab"
SECTIONS = [
    "Setup",
    "Predict",
    "By hand",
    "See it",
    "With the library",
    "Run",
    "Break it",
    "Exercises",
    "Recap",
]
# Where this module is loaded, panels train in the foreground.
LIKE_COLAB = """\
import google.colab, ipykernel, ipywidgets
print(ipykernel.__version__, ipywidgets.__version__)"""

each_notebook = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def read(path: Path) -> NotebookNode:
    """A notebook without the cells that only the stamp puts in."""
    notebook = nbformat.read(path, as_version=4)
    notebook.cells = [c for c in notebook.cells if "colab" not in c.metadata.get("tags", [])]
    return notebook


def cells(notebook: NotebookNode, kind: str) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == kind]


def words(markdown: str) -> int:
    """Words of running text: no code fences, tables, tags, addresses or formulas."""
    text = re.sub(r"```.*?```|\$\$.*?\$\$|<[^>]+>", " ", markdown, flags=re.DOTALL)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("|")]
    return len(re.findall(r"\w[\w'’.,%-]*", "\n".join(lines)))


def pictures(notebook: NotebookNode) -> int:
    """Outputs that GitHub shows as a picture."""
    outputs = [o for cell in cells(notebook, "code") for o in cell.outputs]
    return sum(any(key.startswith("image/") for key in o.get("data", {})) for o in outputs)


def test_words_are_counted_as_a_reader_would() -> None:
    text = "## A title\n\nIt falls by 3.5 %, see [the paper](https://x.org/a).\n\n| a | b |\n"
    assert words(text + "```python\nx = 1\n```") == 9


@pytest.mark.parametrize(
    ("text", "absolute"),
    [
        ("saved in /home/ann/ftlab", True),
        ("'/tmp/x'", True),
        ("C:\\\\Users\\\\ann", True),
        ("https://example.org/home/x", False),
        ("runs/tmp/x and ~/tmp/", False),
    ],
)
def test_absolute_paths_are_told_from_addresses(text: str, absolute: bool) -> None:
    assert bool(tool.ABSOLUTE_PATH.search(text)) is absolute


def test_normalized_outputs_keep_the_picture_under_a_widget() -> None:
    new = nbformat.v4
    widget = {tool.WIDGET: {"model_id": "1"}, "text/plain": "VBox()"}
    cell = new.new_code_cell(
        "panel", metadata={"tags": ["x"], "execution": {"iopub.status.busy": "now"}}
    )
    cell.outputs = [
        new.new_output("display_data", widget),
        new.new_output("display_data", {**widget, "image/svg+xml": "<svg/>"}),
        new.new_output("execute_result", {"text/plain": "3"}, execution_count=9),
    ]
    notebook = new.new_notebook(cells=[cell], metadata={"widgets": {}})
    tool.normalize(notebook)
    assert [dict(output.data) for output in cell.outputs] == [
        {"image/svg+xml": "<svg/>"},
        {"text/plain": "3"},
    ]
    assert cell.metadata == {"tags": ["x"]} and "widgets" not in notebook.metadata
    assert cell.execution_count == cell.outputs[-1].execution_count == 1
    assert tool.problems(notebook) == []


@each_notebook
def test_file_is_clean(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.nbformat_minor >= 5
    assert notebook.metadata.kernelspec == tool.KERNEL
    assert path.stat().st_size <= 300_000
    assert tool.problems(notebook) == []
    assert all(set(cell.metadata) <= {"tags"} for cell in notebook.cells)


@each_notebook
def test_outputs_are_those_of_one_run_from_top_to_bottom(path: Path) -> None:
    counts = [c.execution_count for c in cells(nbformat.read(path, as_version=4), "code")]
    assert counts == list(range(1, len(counts) + 1))


@each_notebook
def test_compared_outputs_can_be_equal(path: Path) -> None:
    """pandas' styler gives each table a random name, so that a compared cell failed every time."""
    for cell in cells(read(path), "code"):
        if "nbval-check-output" in cell.metadata.get("tags", []):
            assert 'id="T_' not in str(cell.outputs)


@each_notebook
def test_sections_come_in_the_order_of_the_course(path: Path) -> None:
    text = "\n".join(cell.source for cell in cells(read(path), "markdown"))
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    assert re.match(r"# \S", text), "the title card comes first"
    found = re.findall(r"^## [\d.:)· ]*(.+)$", text, re.MULTILINE)
    known = [next((s for s in SECTIONS if title.startswith(s)), title) for title in found]
    assert known == SECTIONS


@each_notebook
def test_budgets(path: Path) -> None:
    notebook = read(path)
    code = [cell.source.splitlines() for cell in cells(notebook, "code")]
    prose = [words(cell.source) for cell in cells(notebook, "markdown")]
    lengths = [len(lines) for lines in code]
    assert 28 <= len(notebook.cells) <= 42
    assert len(code) <= 20
    assert statistics.median(lengths) <= 8 and max(lengths) <= 25
    assert max(len(line) for lines in code for line in lines) <= 88
    assert max(prose) <= 60
    assert 900 <= sum(prose) <= 1600
    assert 3 <= pictures(notebook) <= 6


@each_notebook
def test_nothing_is_installed_or_downloaded_behind_the_readers_back(path: Path) -> None:
    source = "\n".join(cell.source for cell in cells(read(path), "code"))
    found = re.findall(
        r"pip install|conda install|apt-get|^\s*[!%]|urlopen|requests\.", source, re.M
    )
    assert found == []


@each_notebook
def test_exercises_can_be_found_by_the_tool(path: Path) -> None:
    marked = [c for c in read(path).cells if "exercise" in c.metadata.get("tags", [])]
    assert marked
    for cell in marked:
        assert re.search(r"^ftlab\.check\.\w+\(", cell.source.splitlines()[-1])


@pytest.mark.skipif(not COLAB.is_dir(), reason="no .venv-colab (make test makes it)")
def test_first_notebook_runs_on_a_kernel_as_old_as_colabs() -> None:
    """ipywidgets 8 and ipykernel 7 hide mistakes that only Colab's 7.7 and 6.17 show."""
    failed = COLAB / "failed.txt"
    if failed.exists():
        pytest.skip(f"the Colab-like kernel could not be installed: {failed.read_text()}")
    python = next(p for p in (COLAB / "bin/python", COLAB / "Scripts/python.exe") if p.exists())
    notebook = read(ROOT / "notebooks" / "00_start_here.ipynb")
    notebook.cells.insert(0, nbformat.v4.new_code_cell(LIKE_COLAB))
    manager = KernelManager()
    manager._kernel_spec = KernelSpec(
        argv=[os.fspath(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    )
    try:
        tool.execute(notebook, manager)
    finally:
        manager.shutdown_kernel(now=True)
    assert notebook.cells[0].outputs[0].text.split() == ["6.17.1", "7.7.1"]
    tool.normalize(notebook)
    assert tool.problems(notebook) == []
