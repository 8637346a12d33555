"""Several processes train what one trains: real launches of torchrun and accelerate on the CPU."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

import ftlab
from ftlab import checkpoints, processes, sharding

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples" / "several"
BASE = {
    "dataset": "world_qa", "max_samples": 100, "max_steps": 4, "learning_rate": 3e-4,
    "per_device_train_batch_size": 8, "save_strategy": "no",
}  # fmt: skip
ALONE = {**dict.fromkeys(processes.LAUNCHED), **dict.fromkeys(sharding.SWITCHES.values())}


def launch(*command: str, count: int = 2, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """`torchrun ... command` from the root of the repository."""
    starter = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    words = [*starter, "--nproc-per-node", str(count), *command]
    return finished(words, timeout)


def finished(words: list[str], timeout: float = 120) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k not in ALONE}
    path = os.pathsep.join([str(ROOT), environment.get("PYTHONPATH", "")])
    return subprocess.run(
        words, cwd=ROOT, capture_output=True, text=True, timeout=timeout,
        env={**environment, "PYTHONPATH": path},
    )  # fmt: skip


def several(
    jobs: list[dict[str, Any]], folder: Path, count: int = 2
) -> tuple[list[dict[str, Any]], subprocess.CompletedProcess[str]]:
    """What `count` processes make of the jobs, and the launch."""
    (folder / "jobs.json").write_text(json.dumps(jobs))
    files = [str(folder / "jobs.json"), str(folder / "results.json")]
    done = launch(str(ROOT / "tests" / "process_worker.py"), *files, count=count)
    results = folder / "results.json"
    return (json.loads(results.read_text()) if results.is_file() else []), done


def alone(recipe: dict[str, Any], **options: Any) -> Any:
    return ftlab.train(ftlab.Recipe(**recipe), quiet=True, **{"save": False, **options})


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Every way of WAYS, trained by one process."""
    folder = tmp_path_factory.mktemp("one")
    found = {}
    for name in WAYS:
        recipe = recipes(name, folder)[1]
        if name in SAVED:
            recipe |= {"output_dir": str(folder / name)}
        found[name] = alone(recipe, save=name in SAVED)
    return found


def losses(history: list[dict[str, float]], key: str = "loss") -> list[float]:
    return [record[key] for record in history]


# name -> (what the recipe has, what one process leaves out of it)
WAYS = {
    "sft": ({"max_steps": 20, "learning_rate": 2e-3}, {}),  # 12.5 batches of 8 an epoch
    "evaluated": ({"val_size": 16, "eval_strategy": "steps", "eval_steps": 2,
                   "gradient_accumulation_steps": 2}, {}),
    "packed": ({"neat_packing": True, "cutoff_len": 128, "max_samples": 30}, {}),
    "text": ({"stage": "pt", "dataset": "world_text", "cutoff_len": 32, "max_samples": 7}, {}),
    "adalora": ({"finetuning_type": "adalora"}, {}),  # its loss has a part that is of no token
    "dpo": ({"stage": "dpo", "dataset": "polite_pairs", "pref_ftx": 1.0}, {}),
    "rm": ({"stage": "rm", "dataset": "polite_pairs"}, {}),
    "kto": ({"stage": "kto", "dataset": "polite_labels"}, {}),
    "fsdp": ({"fsdp": True}, {"fsdp": None}),
    "fsdp full": ({"fsdp": True, "finetuning_type": "full"}, {"fsdp": None}),
    "fsdp orpo": ({"fsdp": True, "stage": "dpo", "dataset": "polite_pairs", "pref_loss": "orpo"},
                  {"fsdp": None}),
}  # fmt: skip
SAVED = ("sft", "fsdp", "fsdp full")


def recipes(name: str, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The recipe for two processes, and that for one."""
    changes, single = WAYS[name]
    two = {**BASE, **changes}
    two["per_device_train_batch_size"] //= 2
    if "eval_steps" in two:
        two["per_device_eval_batch_size"] = 4
    if name in SAVED:
        two |= {"output_dir": str(folder / name), "save_strategy": "steps"}
        two["save_steps"] = two["max_steps"] // 2
    one = {**two, "per_device_train_batch_size": 2 * two["per_device_train_batch_size"], **single}
    if "eval_steps" in two:
        one["per_device_eval_batch_size"] = 8
    return two, one


def cut(folder: Path, step: int) -> Path:
    """The run folder as a power cut after that step would have left it."""
    left = folder.with_name(f"{folder.name}-cut")
    shutil.copytree(folder, left)
    (left / checkpoints.MANIFEST).unlink()
    for path in left.glob("checkpoint-*"):
        if int(path.name.split("-")[1]) > step:
            shutil.rmtree(path)
    return left


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, one: dict[str, Any]) -> dict[str, Any]:
    """Every way of WAYS, a run of one process resumed by two, and a loss that is not finite in the
    second process alone: all in one launch of two processes."""
    folder = tmp_path_factory.mktemp("two")
    jobs = [
        {"recipe": recipes(name, folder)[0], "save": name in SAVED} for name in WAYS
    ] + [
        {"resume": str(cut(one["sft"].folder, 10))},
        {"recipe": recipes("sft", folder)[0] | {"output_dir": str(folder / "nan")},
         "trouble": "not finite"},
    ]  # fmt: skip
    results, done = several(jobs, folder)
    assert results, done.stderr[-3000:]
    found: dict[str, Any] = dict(zip([*WAYS, "resumed", "not finite"], results, strict=True))
    return found | {"stderr": done.stderr}


@pytest.mark.parametrize("name", WAYS)
def test_two_processes_give_the_losses_of_one(
    name: str, one: dict[str, Any], two: dict[str, Any]
) -> None:
    history, expected = two[name]["history"], one[name].history
    assert losses(history) == pytest.approx(losses(expected), abs=1e-4)
    assert losses(history, "grad_norm") == pytest.approx(losses(expected, "grad_norm"), 1e-3)
    for key in ("step", "epoch", "learning_rate", "tokens"):
        assert losses(history, key) == losses(expected, key), key
    assert two[name]["summary"]["processes"] == 2
    if name in ("sft", "packed", "text"):  # an epoch ended, with a batch that is not full
        assert history[-1]["epoch"] > 1 and len(one[name].history) >= 4


@pytest.mark.parametrize("name", ["dpo", "rm", "kto"])
def test_measures_are_means_over_the_processes(
    name: str, one: dict[str, Any], two: dict[str, Any]
) -> None:
    for key in ("rewards/accuracies", "rewards/margins"):
        expected = losses(one[name].history, key)
        assert losses(two[name]["history"], key) == pytest.approx(expected, abs=2e-3), key


def test_the_eval_loss_is_that_of_one_process(one: dict[str, Any], two: dict[str, Any]) -> None:
    both = [
        [record["eval_loss"] for record in history if "eval_loss" in record]
        for history in (two["evaluated"]["history"], one["evaluated"].history)
    ]
    assert len(both[0]) == 2 and both[0] == pytest.approx(both[1], abs=1e-4)


@pytest.mark.parametrize("name", SAVED)
def test_the_first_process_writes_the_whole_folder(
    name: str, one: dict[str, Any], two: dict[str, Any]
) -> None:
    folder = Path(two[name]["folder"])
    checkpoints.verify(folder)
    for checkpoint in folder.glob("checkpoint-*"):
        checkpoints.verify(checkpoint)
        assert {"rng_state_0.pth", "rng_state_1.pth"} <= {p.name for p in checkpoint.iterdir()}
    assert not [p for p in folder.rglob("*") if "partial" in p.name or p.name == checkpoints.LOCK]
    for file in folder.glob("*.safetensors"):
        ours, theirs = load_file(file), load_file(one[name].folder / file.name)
        assert ours.keys() == theirs.keys()  # tied weights once
        assert all(ours[k].sub(theirs[k]).abs().max() < 1e-4 for k in ours)


def test_what_is_printed_is_printed_once(two: dict[str, Any]) -> None:
    assert two["stderr"].count("Stopped at step 3: the loss stopped being finite") == 1
    assert two["not finite"]["status"] == "not finite" and len(two["not finite"]["history"]) == 2


def test_two_processes_go_on_where_one_was_stopped(
    one: dict[str, Any], two: dict[str, Any]
) -> None:
    expected = losses(one["sft"].history)
    assert losses(two["resumed"]["history"]) == pytest.approx(expected, abs=1e-4)
    assert two["resumed"]["status"] == "finished" and len(expected) == 20


def test_one_process_goes_on_where_two_were_stopped(two: dict[str, Any]) -> None:
    left = cut(Path(two["sft"]["folder"]), 10)
    run = ftlab.resume(left)
    assert run.recipe.gradient_accumulation_steps == 2  # 2 x 4 rows are still 8 rows a step
    assert losses(run.history) == pytest.approx(losses(two["sft"]["history"]), abs=1e-4)


def test_a_sharded_run_goes_on_with_another_number_of_processes(
    two: dict[str, Any], tmp_path: Path
) -> None:
    left = [cut(Path(two[name]["folder"]), 2) for name in ("fsdp", "fsdp full")]
    results, done = several([{"resume": str(folder)} for folder in left], tmp_path, count=1)
    assert results, done.stderr[-3000:]
    for name, result in zip(("fsdp", "fsdp full"), results, strict=True):
        expected = losses(two[name]["history"])
        assert losses(result["history"]) == pytest.approx(expected, abs=1e-4)


def test_an_error_of_one_process_ends_both_with_one_message(tmp_path: Path) -> None:
    recipe = BASE | {"output_dir": str(tmp_path / "run"), "save_strategy": "steps",
                     "save_steps": 2}  # fmt: skip
    results, done = several([{"recipe": recipe, "trouble": "error"}], tmp_path)
    assert done.returncode != 0 and not results
    assert done.stderr.count("MemoryError: no memory is left") == 1
    assert "Connection" not in done.stderr  # what the other process met
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert "checkpoint-2" in names and checkpoints.MANIFEST not in names
    assert not [name for name in names if "partial" in name]


def test_sigterm_ends_after_the_step_and_saves(tmp_path: Path) -> None:
    """`accelerate launch` starts this one, and passes the signal on as torchrun does."""
    recipe = BASE | {"output_dir": str(tmp_path / "run"), "max_steps": 500}
    (tmp_path / "jobs.json").write_text(json.dumps([{"recipe": recipe, "trouble": "told to end"}]))
    starter = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    worker = [str(ROOT / "tests" / "process_worker.py"), str(tmp_path / "jobs.json")]
    done = finished([sys.executable, *starter, *worker, str(tmp_path / "results.json")])
    assert done.returncode != 0
    checkpoints.verify(tmp_path / "run")
    lines = (tmp_path / "run" / "history.jsonl").read_text().splitlines()
    assert 3 <= len(lines) < 500
    card = (tmp_path / "run" / "README.md").read_text()
    assert "Status: interrupted" in card and "| processes | 2 |" in card


def test_a_mistake_is_told_once(tmp_path: Path) -> None:
    recipe = tmp_path / "train.yaml"
    recipe.write_text(yaml.safe_dump(BASE | {"stage": "ppo", "reward_funcs": "polite"}))
    done = launch("-m", "ftlab", "train", str(recipe))
    told = [line for line in done.stderr.splitlines() if line.startswith("ftlab: ")]
    assert len(told) == 1 and "samples its answers in one process" in told[0]
    assert done.returncode != 0


# --- what is refused -----------------------------------------------------------------------------


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process believes to be the first of two."""
    values = ("0", "2", "0", "127.0.0.1", "1")
    for name, value in zip(processes.LAUNCHED, values, strict=True):
        monkeypatch.setenv(name, value)
    yield


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stage": "grpo"}, "samples its answers in one process"),
        ({"finetuning_type": "full", "use_badam": True}, "use_badam: it trains other weights"),
        ({"finetuning_type": "full", "use_galore": True, "galore_layerwise": True},
         "within the backward pass"),
    ],
)  # fmt: skip
def test_what_several_cannot_train_is_said_before_anything_is_read(
    changes: dict[str, Any], message: str, pretended: None
) -> None:
    with pytest.raises(ftlab.RecipeError, match=message):
        processes.check(ftlab.Recipe(**changes))


@pytest.mark.parametrize("key", [{"fsdp": True}, {"deepspeed": {"zero_optimization": {}}}])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quantization_bit": 4}, "quantized weights are not sharded here"),
        ({"stage": "dpo"}, "needs a whole reference model"),
        ({"stage": "kto"}, "needs a whole reference model"),
        ({"stage": "ppo"}, "samples answers in one process"),
        ({"finetuning_type": "oft"}, "trains full, freeze or lora"),
        ({"use_dora": True}, "and use_dora: not together"),
        ({"pissa_init": True}, "and pissa_init: not together"),
        ({"finetuning_type": "full", "use_muon": True}, "and use_muon: not together"),
        ({"optim": "adamw_8bit"}, "and optim: not together"),
    ],
)
def test_what_cannot_be_sharded_is_refused(
    key: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ftlab.RecipeError, match=message):
        ftlab.Recipe(**key, **changes)


def test_keys_that_need_each_other() -> None:
    with pytest.raises(ftlab.RecipeError, match="Set one"):
        ftlab.Recipe(fsdp=True, deepspeed="zero.json")
    with pytest.raises(ftlab.RecipeError, match="belongs to fsdp, which is off"):
        ftlab.Recipe(fsdp_config={"version": 2})
    assert ftlab.Recipe(fsdp=False, deepspeed=None, ddp_timeout=180000000).ddp_timeout == 180000000


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fsdp_config": {"verson": 2}}, "no key 'verson'"),
        ({"fsdp_config": {"fsdp_version": 1}}, "version=1. ftlab needs 2"),
        ({"fsdp_config": {"state_dict_type": "SHARDED_STATE_DICT"}}, "needs 'FULL_STATE_DICT'"),
        ({"fsdp_config": "nowhere.json"}, "no such file"),
        ({"fsdp": "hybrid_shard"}, "'hybrid_shard' is none of FSDP2's"),
    ],
)
def test_a_wrong_fsdp_config_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ftlab.RecipeError, match=message):
        sharding.fsdp_settings(ftlab.Recipe(**{"fsdp": True, **changes}))


def test_the_words_of_older_files_are_understood() -> None:
    settings = sharding.fsdp_settings(ftlab.Recipe(fsdp="shard_grad_op auto_wrap offload"))
    assert settings["reshard_after_forward"] is False and settings["cpu_offload"] is True


@pytest.mark.parametrize(
    "changes", [{}, {"stage": "rm", "dataset": "polite_pairs"}], ids=["sft", "rm"]
)
def test_a_script_shards_as_the_recipe_says(changes: dict[str, Any]) -> None:
    fsdp = ftlab.Recipe(**{**BASE, "fsdp": True, **changes}).to_python()
    assert "fsdp=True," in fsdp and "'version': 2" in fsdp
    zero = ftlab.Recipe(**{**BASE, "deepspeed": str(EXAMPLES / "zero2.json"), **changes})
    assert "'stage': 2" in zero.to_python()


def test_zero_3_without_whole_weights_is_refused(tmp_path: Path) -> None:
    settings = json.loads((EXAMPLES / "zero3.json").read_text())
    del settings["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"]
    with pytest.raises(ftlab.RecipeError, match="a run folder needs them whole"):
        sharding.check(ftlab.Recipe(deepspeed=settings))
    (tmp_path / "zero.json").write_text("{")
    with pytest.raises(ftlab.RecipeError, match="not readable as JSON"):
        sharding.check(ftlab.Recipe(deepspeed=str(tmp_path / "zero.json")))


@pytest.mark.parametrize("key", [{"fsdp": True}, {"deepspeed": str(EXAMPLES / "zero2.json")}])
def test_one_process_does_not_shard(key: dict[str, Any]) -> None:
    with pytest.raises(ftlab.EnvironmentProblem, match="divides a model among several processes"):
        ftlab.train(ftlab.Recipe(**BASE, **key), save=False)


def test_deepspeed_without_its_package_or_a_gpu_is_one_sentence(
    pretended: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    recipe = ftlab.Recipe(deepspeed=str(EXAMPLES / "zero2.json"))
    monkeypatch.setattr(sharding.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ftlab.EnvironmentProblem, match="pip install deepspeed"):
        sharding.check(recipe)
    monkeypatch.setattr(sharding.importlib.util, "find_spec", lambda name: "there")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ftlab.EnvironmentProblem, match="no GPU was found here"):
        sharding.check(recipe)


def test_more_processes_than_gpus_are_refused(
    pretended: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(ftlab.EnvironmentProblem, match="--nproc-per-node 1"):
        processes.start(ftlab.Recipe())


def test_a_panel_is_refused(pretended: None) -> None:
    with pytest.raises(ftlab.EnvironmentProblem, match="a panel: works in one process"):
        ftlab.panel(ftlab.Recipe(**BASE))


@pytest.mark.parametrize(
    ("stage", "size", "steps", "before", "expected"),
    [
        ("sft", 4, 1, 2, (4, 2)),  # for one process
        ("sft", 3, 2, 4, (3, 8)),
        ("kto", 4, 1, 2, (8, 1)),
    ],
)
def test_the_rows_of_a_step_stay_the_same(
    stage: str, size: int, steps: int, before: int, expected: tuple[int, int]
) -> None:
    recipe = ftlab.Recipe(
        stage=stage, per_device_train_batch_size=size, gradient_accumulation_steps=steps
    )
    changed = processes.same_batch(recipe, before)
    found = (changed.per_device_train_batch_size, changed.gradient_accumulation_steps)
    assert found == expected


def test_rows_that_cannot_be_shared_evenly_are_refused(pretended: None) -> None:
    recipe = ftlab.Recipe(per_device_train_batch_size=3)
    with pytest.raises(ftlab.CheckpointError, match="with 3 rows a step, which 2 cannot share"):
        processes.same_batch(recipe, 1)
    split = processes.same_batch(recipe.replace(per_device_train_batch_size=6), 1)
    assert (split.per_device_train_batch_size, split.gradient_accumulation_steps) == (3, 1)


def test_bytes_of_one_process() -> None:
    parts = {"weights": 16, "gradients": 16, "optimizer": 64, "activations": 5}
    ways = {how: sharding.bytes_per_process(parts, how, 8) for how in sharding.DIVIDED}
    each = {how: sum(found.values()) for how, found in ways.items()}
    assert each == {"ddp": 101, "zero1": 45, "zero2": 31, "zero3": 17, "fsdp": 17}
    lora = {"weights": 16, "adapters": 8}  # an adapter's weights are weights
    assert sharding.bytes_per_process(lora, "fsdp", 8) == {"weights": 2, "adapters": 1}
    assert sharding.bytes_per_process(lora, "zero2", 8) == lora
    with pytest.raises(ftlab.RecipeError, match="choose one of ddp"):
        sharding.bytes_per_process(parts, "zero4", 8)


# --- the examples --------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("[!a]*.yaml")), ids=lambda path: path.stem)
def test_an_example_is_a_recipe_that_several_processes_can_run(
    path: Path, pretended: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sharding, "_check_deepspeed_runs", lambda: None)  # it needs GPUs
    recipe = ftlab.Recipe.from_yaml(path)
    processes.check(recipe)
    sharding.check(recipe)
    again = ftlab.Recipe.from_yaml(recipe.to_yaml())
    assert (again.deepspeed, again.fsdp, again.fsdp_config) == (
        recipe.deepspeed, recipe.fsdp, recipe.fsdp_config
    )  # fmt: skip


def test_accelerates_configuration_is_read_by_accelerate(monkeypatch: pytest.MonkeyPatch) -> None:
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import launch_command_parser
    from accelerate.utils import FullyShardedDataParallelPlugin
    from accelerate.utils.launch import prepare_multi_gpu_env

    file = str(EXAMPLES / "accelerate_fsdp2.yaml")
    config = load_config_from_file(file)
    known = {action.dest for action in launch_command_parser()._actions}
    assert set(config.fsdp_config) <= known
    arguments = launch_command_parser().parse_args(["--use_fsdp", "-m", "ftlab"])
    for key, value in config.fsdp_config.items():
        setattr(arguments, key, str(value))
    arguments.mixed_precision, arguments.num_processes = config.mixed_precision, 8
    arguments.num_machines, arguments.use_fsdp, arguments.dynamo_backend = 1, True, "no"
    for key, value in prepare_multi_gpu_env(arguments).items():
        if key.startswith(("FSDP_", "ACCELERATE_")):
            monkeypatch.setenv(key, value)
    sharding._check_launcher("fsdp")
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2 and plugin.reshard_after_forward is True
    assert "FULL_STATE_DICT" in str(plugin.state_dict_type)
    monkeypatch.setenv("FSDP_STATE_DICT_TYPE", "SHARDED_STATE_DICT")
    with pytest.raises(ftlab.RecipeError, match="fsdp_state_dict_type is SHARDED_STATE_DICT"):
        sharding._check_launcher("fsdp")


@pytest.mark.parametrize("name", ["zero2", "zero3"])
def test_a_deepspeed_file_is_filled_in_by_transformers(name: str, tmp_path: Path) -> None:
    pytest.importorskip("deepspeed", reason="deepspeed is not installed")
    from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig

    config = HfTrainerDeepSpeedConfig(str(EXAMPLES / f"{name}.json"))
    assert config.is_zero3() is (name == "zero3") and not config.is_offload()
