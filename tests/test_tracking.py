"""SwanLab offline: the same curve, no key, no network, and never a reason to stop training."""

import pytest

import ftlab
from ftlab.tracking import SwanLab

swanlab = pytest.importorskip("swanlab", reason="the extra ftlab[track] is not installed")


@pytest.fixture
def recipe(tmp_path):
    return ftlab.Recipe(
        use_swanlab=True, swanlab_logdir=str(tmp_path), max_steps=3, per_device_train_batch_size=4
    )


@pytest.fixture
def rows():
    return ftlab.read("world_qa").take(16)


def test_every_step_is_logged_and_the_run_is_closed(recipe, rows, tmp_path, monkeypatch):
    logged = []
    plain = swanlab.log
    monkeypatch.setattr(
        swanlab, "log", lambda data, step: (logged.append((step, data)), plain(data, step=step))
    )
    run = ftlab.train(recipe, rows, save=False, quiet=True)
    assert run.status == "finished" and not run.notices
    assert [step for step, _ in logged] == [1, 2, 3]
    assert [data["loss"] for _, data in logged] == [r["loss"] for r in run.history]
    assert not swanlab.has_run() and any(tmp_path.rglob("*"))


def test_two_runs_in_one_kernel_track_one_after_the_other(recipe, rows):
    for _ in range(2):
        assert not ftlab.train(recipe, rows, save=False, quiet=True).notices


def test_a_tracker_that_fails_does_not_stop_training(recipe, rows, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("the disk of the tracker is full")

    monkeypatch.setattr(swanlab, "log", fail)
    run = ftlab.train(recipe, rows, save=False, quiet=True)
    assert run.status == "finished" and "goes on without tracking" in run.notices[0]
    swanlab.finish()


def test_tracking_is_offline_unless_the_recipe_says_otherwise(recipe):
    assert recipe.swanlab_mode == "offline" and SwanLab(recipe).live is False
