"""Write the course's public address into pyproject.toml and the notebooks: `make stamp REPO=a/b`.

With an empty REPO everything is taken out again. Colab opens one notebook without the repository,
so each gets a badge and a first code cell that installs ftlab there and does nothing elsewhere.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from packaging.requirements import Requirement

from tools.notebooks import renumber

ROOT = Path(__file__).resolve().parents[1]
BADGE = re.compile(r"\n\n\[!\[Open in Colab\]\([^)]*\)\]\([^)]*\)")
SETTING = re.compile(r'(?<=^repository = ").*(?="$)', re.MULTILINE)
# --no-deps: what the running kernel has loaded (NumPy, pandas, ipykernel) stays as it is.
INSTALL = """\
# On Colab: install ftlab and what is missing there. Elsewhere: nothing.
import sys

if "google.colab" in sys.modules:
    url = "git+https://github.com/{repository}"
    %pip install -q --no-deps {{url}} {trainer}
    %pip install -q --no-deps {others}\
"""
# Colab has PyTorch, transformers and PEFT; it has no TRL, and datasets 4.0 is too old for TRL.
TRAINER = ("trl", "datasets")
OTHERS = ("bitsandbytes", "gguf")


def install_cell(repository: str, dependencies: list[str]) -> NotebookNode:
    """The cell for Colab, with the pins of pyproject.toml."""
    trainer, others = (
        " ".join(f'"{pin}"' for pin in dependencies if Requirement(pin).name in names)
        for names in (TRAINER, OTHERS)
    )
    others += ' "pyarrow>=21"'
    source = INSTALL.format(repository=repository, trainer=trainer, others=others)
    cell: NotebookNode = nbformat.v4.new_code_cell(source, id="colab")
    cell.metadata.tags = ["colab"]
    return cell


def stamp(notebook: NotebookNode, name: str, repository: str, dependencies: list[str]) -> None:
    """Put badge and install cell into one notebook, or take both out if `repository` is empty."""
    title = notebook.cells[0]
    title.source = BADGE.sub("", title.source)
    notebook.cells = [c for c in notebook.cells if "colab" not in c.metadata.get("tags", [])]
    if repository:
        link = f"https://colab.research.google.com/github/{repository}/blob/main/notebooks/{name}"
        image = "https://colab.research.google.com/assets/colab-badge.svg"
        head, _, rest = title.source.partition("\n")
        title.source = f"{head}\n\n[![Open in Colab]({image})]({link})" + (rest and f"\n{rest}")
        notebook.cells.insert(1, install_cell(repository, dependencies))
    if any(cell.get("execution_count") for cell in notebook.cells):  # it has been run
        renumber(notebook)


def main(repository: str, root: Path = ROOT) -> None:
    """Stamp a whole checkout."""
    if repository and not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise SystemExit(f"REPO={repository!r}: write it as owner/name (empty takes it out again)")
    settings = root / "pyproject.toml"
    text = SETTING.sub(repository, settings.read_text("utf-8"))
    settings.write_text(text, "utf-8")
    dependencies = tomllib.loads(text)["project"]["dependencies"]
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        stamp(notebook, path.name, repository, dependencies)
        nbformat.write(notebook, path)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "")
