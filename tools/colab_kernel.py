"""Make .venv-colab: a kernel as old as Google Colab's, on the PyTorch that is installed here.

Run by `make test` during set-up. Only what differs on Colab is installed; everything else comes
from this environment through a .pth file. Without a network it says so and the test skips.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / ".venv-colab"
# Colab's image of August 2026 (googlecolab/backend-info); then what IPython 7 needs besides.
PINS = [
    "ipykernel==6.17.1",
    "ipython==7.34.0",
    "ipywidgets==7.7.1",
    "transformers==5.15.0",
    "tokenizers==0.22.2",
    "peft==0.20.0",
    "accelerate==1.14.0",
]
OLD_NEEDS = ["backcall", "decorator", "ipython-genutils", "nest-asyncio", "pickleshare"]


def main() -> None:
    """Make the folder anew; leave the reason in `failed.txt` when pip cannot fill it."""
    venv.create(FOLDER, with_pip=False, clear=True)
    site = sysconfig.get_path("purelib", vars={"base": str(FOLDER)})
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "-q"]
    done = subprocess.run(
        [*pip, "--no-deps", "--no-compile", "--retries", "1", "--target", site, *PINS, *OLD_NEEDS],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["pip failed"])[-1]
        (FOLDER / "failed.txt").write_text(reason, encoding="utf-8")
        print(f"The Colab-like kernel could not be installed, its test will skip: {reason}")
    # What tells a library, ours too, that it runs on Colab.
    colab = Path(site, "google", "colab")
    colab.mkdir(parents=True)
    (colab / "__init__.py").touch()
    # Appended to sys.path (this environment with its own .pth files), so the old versions win.
    rest = f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"
    Path(site, "rest.pth").write_text(rest, encoding="utf-8")


if __name__ == "__main__":
    main()
