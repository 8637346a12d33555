"""The frame: pins, Makefile, doctor, stamp, wheel, import time."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
import yaml

from ftlab import doctor
from ftlab.deferred import compiled_on_call
from tools import stamp

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def run(code: str, cwd: Path = ROOT) -> str:
    """The output of a few lines in a fresh interpreter."""
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_environment_yml_has_exactly_the_pins_of_pyproject() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    used = ("lab", "track", "serve", "quant", "optim", "dev")
    wanted = PROJECT["project"]["dependencies"] + [pin for name in used for pin in extras[name]]
    conda = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))["dependencies"]
    lines = conda[-1]["pip"]
    assert [line for line in lines if not line.startswith("-")] == wanted
    assert lines[-1] == "-e ."


def test_makefile_has_every_target_and_lists_it() -> None:
    shown = subprocess.run(["make", "-s"], cwd=ROOT, capture_output=True, text=True).stdout
    for target in ["lab", "test", "test-all", "outputs", "world", "bench", "lint", "stamp"]:
        assert re.search(rf"^  make {target} ", shown, re.MULTILINE), target


def test_python_that_is_too_old_is_named_before_anything_is_installed(tmp_path: Path) -> None:
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    done = subprocess.run(
        ["make", "lab", f"PYTHON={old}"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "Python 3.11 or newer" in done.stdout and "make PYTHON=" in done.stdout
    assert not (tmp_path / ".venv").exists()


def test_import_is_fast_and_loads_neither_torch_nor_transformers() -> None:
    heavy = run(
        "import sys, ftlab, ftlab.recipe, ftlab.data, ftlab.exercises\n"
        "print(sorted({'torch', 'transformers', 'matplotlib', 'pandas'} & set(sys.modules)))"
    )
    assert heavy == "[]"


def test_setup_prints_what_the_cells_run_on_seeds_and_decides_about_the_network() -> None:
    first, *rest = run(
        "import huggingface_hub as hub, torch, ftlab\n"
        "ftlab.setup(seed=7); a = torch.rand(1); print(hub.is_offline_mode())\n"
        "ftlab.setup(seed=7, online=True)\n"
        "print(hub.is_offline_mode(), bool(a == torch.rand(1)))"
    ).splitlines()
    assert first.startswith("ftlab") and "transformers" in first
    names = ["device", "dtype", "threads", "seed", "network"]
    assert [line.split()[0] for line in rest[:5]] == names
    assert "(" in rest[0] and "offline" in rest[4]
    assert rest[5] == "True", "huggingface_hub was imported first and has to learn of it"
    assert "online" in rest[11] and rest[12] == "False True"


def test_doctor_finds_this_environment_healthy() -> None:
    report = doctor.check()
    assert report.ok, str(report)
    for name in ("Python", "torch", "transformers", "device", "dtype", "memory", "disk", "network"):
        assert re.search(rf"^{name} +\S", str(report), re.MULTILINE), name


@pytest.mark.parametrize(
    ("package", "version", "sentence"),
    [
        (
            "transformers",
            "5.23.0",
            "transformers 5.23.0 is installed, ftlab needs >=5.15,<5.18: "
            "pip install 'transformers>=5.15,<5.18'",
        ),
        ("ipywidgets", "9.0.0", "ipywidgets 9.0.0 is installed, ftlab needs >=7.7.1,<9: "),
        ("ipywidgets", "7.7.1", "ipywidgets 7.7.1 shows no panels in JupyterLab 4: "),
        ("trl", None, "trl is missing, ftlab needs ==1.12.*: pip install 'trl==1.12.*'"),
    ],
)
def test_doctor_names_the_conflict_and_what_mends_it(
    monkeypatch: pytest.MonkeyPatch, package: str, version: str | None, sentence: str
) -> None:
    installed = doctor._version
    monkeypatch.setattr(
        doctor, "_version", lambda name: version if name == package else installed(name)
    )
    report = doctor.check()
    assert len(report.problems) == 1
    assert report.problems[0].startswith(sentence)
    assert not report.ok and sentence in str(report)


def test_doctor_command_fails_on_a_conflict(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from ftlab import cli

    assert cli.main(["doctor"]) == 0
    monkeypatch.setattr(doctor, "conflicts", lambda: ["torch 1.0 is installed"])
    assert cli.main(["doctor"]) != 0
    assert "torch 1.0 is installed" in capsys.readouterr().out


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy with one notebook that has been run."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    new = nbformat.v4
    cell = new.new_code_cell("1 + 1", execution_count=1)
    cell.outputs = [new.new_output("execute_result", {"text/plain": "2"}, execution_count=1)]
    notebook = new.new_notebook(cells=[new.new_markdown_cell("# Title\n\nPromise."), cell])
    (tmp_path / "notebooks").mkdir()
    nbformat.write(notebook, tmp_path / "notebooks" / "00_start.ipynb")
    return tmp_path


def test_stamp_writes_the_address_once_and_takes_it_out_again(checkout: Path) -> None:
    files = [checkout / "pyproject.toml", checkout / "notebooks" / "00_start.ipynb"]
    before = [file.read_bytes() for file in files]
    stamp.main("someone/ftlab", checkout)
    once = [file.read_bytes() for file in files]
    stamp.main("other/name", checkout)
    stamp.main("someone/ftlab", checkout)
    assert [file.read_bytes() for file in files] == once

    assert b'repository = "someone/ftlab"' in once[0]
    title, install, code = nbformat.read(files[1], as_version=4).cells
    link = (
        "https://colab.research.google.com/github/someone/ftlab/blob/main/notebooks/00_start.ipynb"
    )
    assert f"]({link})" in title.source and title.source.endswith("\n\nPromise.")
    assert install.metadata.tags == ["colab"]
    assert (install.execution_count, code.execution_count) == (1, 2)
    assert code.outputs[0].execution_count == 2

    stamp.main("", checkout)
    assert [file.read_bytes() for file in files] == before


def test_install_cell_does_nothing_away_from_colab_and_has_our_pins() -> None:
    source = stamp.install_cell("a/b", PROJECT["project"]["dependencies"]).source
    assert '"trl==1.12.*" "datasets==4.8.4"' in source and "git+https://github.com/a/b" in source
    assert "--no-deps" in source and "torch" not in source
    assert max(map(len, source.splitlines())) <= 88
    from IPython.core.interactiveshell import InteractiveShell

    result = InteractiveShell().run_cell(source)
    assert result.success and result.result is None


def test_stamp_refuses_what_is_no_repository(checkout: Path) -> None:
    with pytest.raises(SystemExit, match="owner/name"):
        stamp.main("https://github.com/a/b", checkout)


def test_wheel_brings_the_data_and_finds_it(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    options = ["-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "wheel", *options, ".", "-w", tmp_path], cwd=ROOT, check=True)
    (wheel,) = tmp_path.glob("ftlab-*.whl")
    assert wheel.stat().st_size < 30e6
    target = tmp_path / "site"
    subprocess.run([*pip, "install", *options, "--target", target, wheel], check=True)
    found = run(
        f"import sys; sys.path.insert(0, {os.fspath(target)!r})\n"
        "import ftlab; folder = ftlab.data_dir(); print(folder)\n"
        "print((folder / 'tiny' / 'config.json').is_file(), len(ftlab.read('world_qa')) > 0)",
        cwd=tmp_path,
    ).splitlines()
    assert found == [str(target / "ftlab" / "_data"), "True True"]


def test_pytorchs_compiler_is_not_loaded_with_the_libraries() -> None:
    code = "import ftlab, ftlab.train, sys; print({name: name in sys.modules for name in %r})"
    names = ["hqq.core.quantize", "bitsandbytes.backends.default.ops", "torch._inductor.compile_fx"]
    hqq, bitsandbytes, compiler = eval(run(code % names)).values()
    assert (hqq, bitsandbytes, compiler) == (True, True, False)


def test_a_function_is_compiled_at_its_first_call_and_once() -> None:
    compiled: list[dict[str, bool]] = []

    def compile(function, **options):
        compiled.append(options)
        return function

    decorate = compiled_on_call(compile)

    class Layer:
        @decorate(dynamic=False)
        def double(self, x: int) -> int:
            "Twice."
            return 2 * x

    assert not compiled and Layer.double.__doc__ == "Twice."
    assert [Layer().double(x) for x in (1, 2)] == [2, 4]
    assert compiled == [{"dynamic": False}]
