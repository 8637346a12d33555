"""Run the notebooks: `outputs` stores a clean run in each, `solve` tries the exercises' solutions.

python -m tools.notebooks outputs [NOTEBOOK ...]
python -m tools.notebooks solve [NOTEBOOK ...]
"""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path

import nbformat
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
WIDGET = "application/vnd.jupyter.widget-view+json"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
LANGUAGE = {"file_extension": ".py", "name": "python", "pygments_lexer": "ipython3"}
# Not inside an address (https://host/home/...) or a longer path (docs/tmp/...).
ABSOLUTE_PATH = re.compile(
    r"(?<![\w.:/~-])/(?:home|root|Users|tmp|work|opt|usr|var|private)/|\b[A-Z]:\\\\"
)
MEMORY_ADDRESS = re.compile(r" at 0x[0-9a-f]{6,}")


def execute(notebook: NotebookNode, kernel: KernelManager | None = None) -> None:
    """Run every cell on a fresh kernel, in the folder of the notebooks; the outputs stay inside."""
    client = NotebookClient(
        notebook,
        timeout=300,
        record_timing=False,
        store_widget_state=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(NOTEBOOKS)}},
        km=kernel,
    )
    client.execute()


def normalize(notebook: NotebookNode) -> None:
    """Drop what differs from run to run or machine to machine, in place; cell ids stay."""
    notebook.metadata = NotebookNode(kernelspec=KERNEL, language_info=LANGUAGE)
    for cell in notebook.cells:
        cell.metadata = NotebookNode({k: v for k, v in cell.metadata.items() if k == "tags"})
        if cell.cell_type == "code":
            cell.outputs = [output for output in map(_without_widget, cell.outputs) if output]
            for data in (output.get("data", {}) for output in cell.outputs):
                if "text/plain" in data:
                    data["text/plain"] = MEMORY_ADDRESS.sub("", data["text/plain"])
    renumber(notebook)


def renumber(notebook: NotebookNode) -> None:
    """Execution counts 1, 2, 3, ... as in a run from top to bottom."""
    code_cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for count, cell in enumerate(code_cells, start=1):
        cell.execution_count = count
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = count


def problems(notebook: NotebookNode) -> list[str]:
    """What may not be committed: errors, stderr, widget state, absolute paths, addresses."""
    found = ["widget state in the metadata"] if "widgets" in notebook.metadata else []
    for number, cell in enumerate(notebook.cells, start=1):
        texts = [("source", cell.source)]
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                found.append(f"cell {number}: {output.ename}: {output.evalue}")
            elif output.get("name") == "stderr":
                found.append(f"cell {number}: stderr: {output.text.strip()[:200]}")
            elif WIDGET in output.get("data", {}):
                found.append(f"cell {number}: a widget was stored")
            texts.append(("output", output.get("text", "")))
            texts += [
                (key, str(value))
                for key, value in output.get("data", {}).items()
                if not key.startswith("image/png")
            ]
        for where, text in texts:
            for pattern in (ABSOLUTE_PATH, MEMORY_ADDRESS):
                if match := pattern.search(text):
                    excerpt = text[max(0, match.start() - 20) : match.end() + 40]
                    found.append(f"cell {number}: {where}: {excerpt!r}")
    return found


def store_outputs(path: Path) -> list[str]:
    """Run one notebook and, if nothing is wrong with its outputs, write them into the file."""
    notebook = nbformat.read(path, as_version=4)
    try:
        execute(notebook)
    except CellExecutionError as error:
        return [str(error)]
    normalize(notebook)
    found = problems(notebook)
    if not found:
        nbformat.write(notebook, path)
    return found


def try_solutions(path: Path) -> list[str]:
    """Run one notebook with every exercise solved; each check has to say that it passed."""
    from ftlab.exercises import filled

    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if "exercise" in cell.metadata.get("tags", [])]
    for cell in cells:
        cell.source = filled(cell.source)
    try:
        execute(notebook)
    except CellExecutionError as error:
        return [str(error)]
    said = ["".join(o.get("data", {}).get("text/plain", "") for o in c.outputs) for c in cells]
    return [
        f"{cell.source}\n-> {text}"
        for cell, text in zip(cells, said, strict=True)
        if not text.startswith("passed")
    ]


def _without_widget(output: NotebookNode) -> NotebookNode | None:
    """A widget shows nothing on GitHub; a picture that came with it stays."""
    if WIDGET not in output.get("data", {}):
        return output
    data = {key: value for key, value in output.data.items() if key.startswith("image/")}
    return NotebookNode(output, data=NotebookNode(data)) if data else None


def main() -> int:
    from ftlab.doctor import OFFLINE

    os.environ.update(OFFLINE)
    job = {"outputs": store_outputs, "solve": try_solutions}[sys.argv[1]]
    paths = [Path(name).resolve() for name in sys.argv[2:]] or sorted(NOTEBOOKS.glob("*.ipynb"))
    failed = 0
    for path in paths:
        start = time.monotonic()
        found = job(path)
        failed += bool(found)
        print(f"{path.name}: {'FAILED' if found else 'ok'}, {time.monotonic() - start:.0f} s")
        print("\n".join(found) + "\n" if found else "", end="", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
