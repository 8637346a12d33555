"""The command line: ftlab lab | doctor | data | train | chat | eval | export | serve.

Every mistake a user can mend prints one message and exits with 2; a run that fails exits with 1,
one that Ctrl-C ended early (and saved) with 130.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ftlab import processes
from ftlab.errors import EnvironmentProblem, Error, RecipeError

if TYPE_CHECKING:
    from ftlab.recipe import Recipe
    from ftlab.run import Run


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        with processes.one_message():
            if options.command not in (_train, _resume):
                processes.one_only("this command")
            code = int(options.command(options))
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader has seen enough, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # 128 + SIGPIPE, as a shell reports it
    except Error as error:
        print(f"ftlab: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nftlab: interrupted.", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ftlab", description="Learn to fine-tune by running it.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    lab = commands.add_parser("lab", help="open the course in JupyterLab")
    lab.add_argument("--port", type=int, default=8888, help="first port to try (default 8888)")
    lab.add_argument("--no-browser", action="store_true", help="only print the address")
    lab.set_defaults(command=_lab)

    doctor = commands.add_parser("doctor", help="versions, device, memory, disk, conflicts")
    doctor.add_argument("--recipe", metavar="FILE.yaml", help="does this run fit here? what would?")
    doctor.add_argument(
        "--device", metavar="CARD", help="with --recipe: a card, such as T4 or A100"
    )
    doctor.set_defaults(command=_doctor)

    data = commands.add_parser("data", help="check a dataset before it is trained on")
    _add_check(data.add_subparsers(title="commands", required=True, metavar="COMMAND"))

    for name, command, help in (
        ("train", _train, "train as a LLaMA-Factory YAML recipe says"),
        ("chat", _chat, "talk to a model in the terminal"),
        ("eval", _eval, "score a model on a dataset, with 95 %% intervals"),
        ("export", _export, "write a model, merged with its adapter, as other programs read it"),
    ):
        sub = commands.add_parser(name, help=help)
        sub.add_argument("file", metavar="FILE.yaml", help="the recipe")
        sub.add_argument(
            "overrides", nargs="*", metavar="key=value", help="values that win over it"
        )
        sub.set_defaults(command=command)
    resume = commands.add_parser("resume", help="go on with a run that was stopped")
    resume.add_argument("folder", metavar="FOLDER", help="its run folder")
    resume.set_defaults(command=_resume)
    _add_serve(commands)
    return parser


def _add_serve(commands: Any) -> None:
    serve = commands.add_parser("serve", help="answer programs: an OpenAI-compatible API, local")
    serve.add_argument("folder", metavar="FOLDER", help="a model, or a run with its adapter")
    serve.add_argument("--port", type=int, default=8000, help="default 8000; 0: any free one")
    serve.add_argument("--adapter", action="append", default=[], metavar="[NAME=]DIR",
                       help="one more adapter of the same base; may be repeated")  # fmt: skip
    serve.add_argument("--quantization-bit", type=int, metavar="N", help="hold the base in 8 or 4")
    serve.set_defaults(command=_serve)


def _add_check(commands: Any) -> None:
    check = commands.add_parser("check", help="what is wrong in it, where, and what to do")
    check.add_argument("file", metavar="FILE", help="a file, a folder, or a name of data/")
    check.add_argument("--fix", metavar="OUT", help="write a cleaned copy, and OUT.changes.jsonl")
    check.add_argument("--model", help="count its tokens and check its template, such as tiny")
    check.add_argument("--cutoff-len", type=int, metavar="N", help="which rows are longer")
    check.add_argument("--against", metavar="FILE", help="a test set that shares no question")
    check.add_argument("--encoding", help="of the file, where it is not UTF-8, such as gb18030")
    check.add_argument("--formatting", help="alpaca, sharegpt or openai, where it is not found")
    check.add_argument("--dataset-dir", metavar="DIR", help="the folder of dataset_info.json")
    check.add_argument("--json", action="store_true", help="print the report as JSON")
    check.set_defaults(command=_data_check)


def _lab(options: argparse.Namespace) -> int:
    if importlib.util.find_spec("jupyterlab") is None:
        raise EnvironmentProblem("JupyterLab is not installed: pip install 'ftlab[lab]'")
    from ftlab.data import data_dir

    root = data_dir().parent
    first = root / "notebooks" / "00_start_here.ipynb"
    if not first.is_file():
        raise EnvironmentProblem(
            f"{first}: not found. ftlab lab opens the course of a clone of the repository; "
            "an installed wheel holds the package and its data only."
        )
    command = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={root}",
               f"--LabApp.default_url=/lab/tree/{first.relative_to(root).as_posix()}",
               "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={options.port}"]  # fmt: skip
    if options.no_browser:
        command.append("--no-browser")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--allow-root")
    os.execv(sys.executable, command)


def _doctor(options: argparse.Namespace) -> int:
    from ftlab import doctor

    if options.recipe or options.device:
        return _doctor_recipe(options)
    report = doctor.check()
    print(report)
    return 1 if report.problems else 0


def _doctor_recipe(options: argparse.Namespace) -> int:
    """0 where the run fits, 1 where it does not."""
    if not options.recipe:
        raise RecipeError("--device: goes with --recipe FILE.yaml, the run to look at.")
    from ftlab.calculator import estimate
    from ftlab.recipe import Recipe

    found = estimate(Recipe.from_yaml(options.recipe), device=options.device)
    print(f"{found}\n{found.advice()}")
    return 1 if found.fit.verdict == "too large" else 0


def _data_check(options: argparse.Namespace) -> int:
    from ftlab.data.doctor import diagnose

    names = ("cutoff_len", "against", "encoding", "formatting", "dataset_dir")
    given = {name: getattr(options, name) for name in names}
    tokenizer = None
    if options.model:
        from ftlab.models import load_tokenizer

        tokenizer = load_tokenizer(options.model)
    report = diagnose(options.file, tokenizer=tokenizer, **given)
    changes = report.fixed(options.fix) if options.fix else None
    if options.json:
        print(json.dumps(report.to_dict(), ensure_ascii=False, indent=1))
    else:
        print(report)
        if changes is not None:
            left = sum("removed" in change for change in changes)
            written = f"{report.rows_read - left:,} rows written, {left:,} left out"
            print(
                f"{options.fix}: {written}; {len(changes):,} changes in {options.fix}.changes.jsonl"
            )
    return 1 if any(finding.level == "error" for finding in report.findings) else 0


def _train(options: argparse.Namespace) -> int:
    recipe = _recipe(options)
    from ftlab import engine

    engine.begin_for(recipe)
    from ftlab.train import train

    return _told(train(recipe, observers=[Progress()]))


def _resume(options: argparse.Namespace) -> int:
    from ftlab.train import resume

    return _told(resume(options.folder, observers=[Progress()]))


def _told(run: Run) -> int:
    """Say how a run ended; returns the exit code."""
    if processes.first():
        _summary(run)
    return {"finished": 0, "interrupted": 130}.get(run.status, 1)


def _summary(run: Run) -> None:
    losses = [run.summary[key] for key in ("first_loss", "last_loss")]
    fall = " -> ".join(f"{loss:.4f}" for loss in losses if loss is not None) or "not computed"
    print(
        f"{run.status}: {run.summary['steps']} steps in {run.summary['seconds']:.1f} s, loss {fall}"
    )
    print(f"run folder: {run.folder}")
    left = run.folder is not None and (run.folder / f"checkpoint-{run.summary['steps']}").is_dir()
    if left and run.status in ("stopped", "interrupted"):
        print(f"to go on: ftlab resume {run.folder}")


def _chat(options: argparse.Namespace) -> int:
    recipe = _recipe(options)
    from ftlab.recipe import KNOBS
    from ftlab.serving.terminal import Conversation

    model, tokenizer = _load(recipe)
    sampling: dict[str, Any] = {
        name: getattr(recipe, name) for name in KNOBS if KNOBS[name].group == "generation"
    } | {"enable_thinking": recipe.enable_thinking}
    Conversation(model, tokenizer, recipe.system_prompt, sampling).run()
    return 0


def _eval(options: argparse.Namespace) -> int:
    recipe = _recipe(options)
    name = recipe.eval_dataset or recipe.dataset
    if not name:
        raise RecipeError("eval_dataset: the recipe names none. Say what to score the model on.")
    from ftlab.chat import with_system
    from ftlab.data import read
    from ftlab.evaluate import evaluate

    data = read(name, dataset_dir=recipe.dataset_dir)
    print(data.reason)
    rows = [with_system(row, recipe.system_prompt) for row in data[: recipe.max_samples]]
    model, tokenizer = _load(recipe)
    metrics = ("perplexity",) if data.kind == "text" else ("exact_match", "perplexity")
    thinking = recipe.enable_thinking
    for metric in metrics:
        scores = evaluate(model, tokenizer, rows, metric=metric, enable_thinking=thinking)
        print(f"{metric} on {name}: {scores}")
    return 0


def _export(options: argparse.Namespace) -> int:
    recipe = _recipe(options)
    if not recipe.export_dir:
        raise RecipeError("export_dir: the recipe names none, and ftlab export needs one.")
    how: dict[str, Any] = {
        "format": recipe.export_format,
        "template": recipe.template,
        "default_system": recipe.default_system,
        "shard_gb": recipe.export_size,
        "device": recipe.export_device,
    }
    if "," in (recipe.adapter_name_or_path or ""):
        raise RecipeError(
            "adapter_name_or_path: names several adapters. Export one at a time: the folder of "
            "each export is the model_name_or_path of the next."
        )
    if recipe.adapter_name_or_path:
        from ftlab.merge import merge

        base = recipe.model_name_or_path
        print(merge(recipe.adapter_name_or_path, recipe.export_dir, base=base, **how))
    else:
        from ftlab.export import export

        print(export(recipe.model_name_or_path, recipe.export_dir, **how))
    return 0


def _serve(options: argparse.Namespace) -> int:
    from ftlab.serving.server import serve

    bits, port = options.quantization_bit, options.port
    with serve(
        options.folder, adapters=options.adapter, port=port, quantization_bit=bits
    ) as server:
        print(f"{', '.join(server.names)} at {server.url} (OpenAI's API). Ctrl-C ends.", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            server.wait()
    return 0


def _load(recipe: Recipe) -> tuple[Any, Any]:
    """The recipe's model with its adapter, and the tokenizer with its template."""
    from ftlab.batches import prepared_tokenizer
    from ftlab.models import load_for

    model, tokenizer = load_for(recipe)
    return model, prepared_tokenizer(tokenizer, recipe)


def _recipe(options: argparse.Namespace) -> Recipe:
    """The recipe file, with the ``key=value`` words of the command line laid over it."""
    import yaml

    from ftlab.recipe import Recipe

    recipe = Recipe.from_yaml(options.file)
    changes: dict[str, Any] = {}
    for word in options.overrides:
        key, equals, value = word.partition("=")
        if not equals:
            raise RecipeError(f"{word!r}: expected key=value, such as learning_rate=1e-3.")
        changes[key] = yaml.safe_load(value)
    return recipe.replace(**changes)


class Progress:
    """A progress bar on the terminal."""

    def on_start(self, run: Run) -> None:
        """Open the bar at the run's number of steps; one that goes on begins where it was."""
        from tqdm import tqdm

        done = int(run.history[-1]["step"]) if run.history else 0
        bar = {"initial": done, "total": run.total_steps, "unit": "step", "desc": run.name}
        self.bar = tqdm(**bar, file=sys.stderr)

    def on_log(self, run: Run, record: dict[str, float]) -> None:
        """Move it to the record's step and show the losses."""
        self.bar.update(int(record["step"]) - self.bar.n)
        shown = {key: f"{record[key]:.4f}" for key in ("loss", "eval_loss") if key in record}
        self.bar.set_postfix(shown, refresh=False)

    def on_end(self, run: Run) -> None:
        """Close it, if training ever began."""
        if hasattr(self, "bar"):
            self.bar.close()


if __name__ == "__main__":
    sys.exit(main())
