"""The training panel without a browser: sliders are moved by setting their value."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from html import unescape
from importlib import import_module
from typing import Any

import pytest
from torch.nn import Linear

import ftlab
from ftlab.panels import controls, training, worker
from ftlab.panels.training import TrainingPanel
from ftlab.recipe import KNOBS
from ftlab.run import Run
from tests.widgets import SHARED, check_shared

LONG = 5000  # steps: more than any test waits for


def stand_in(
    recipe: Any, data: Any, *, model: Any, observers: Any, stop: Any, **options: Any
) -> Run:
    """A training that costs nothing: one step a millisecond."""
    run = Run(recipe, model, None, "stand-in", total_steps=recipe.max_steps)
    for observer in observers:
        observer.on_start(run)
    for step in range(1, recipe.max_steps + 1):
        if stop.wait(0.001):
            break
        run.history.append(
            {"step": step, "loss": 3 / step, "learning_rate": 1e-3, "grad_norm": 1.0}
        )
        for observer in observers:
            observer.on_log(run, run.history[-1])
    run.status = "stopped" if stop.is_set() else "finished"
    for observer in observers:
        observer.on_end(run)
    return run


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ftlab, "train", stand_in)


def make(steps: int = 12, **options: Any) -> TrainingPanel:
    """A panel on a stand-in model that asks nothing."""
    recipe = ftlab.Recipe(dataset="world_qa", max_steps=steps, learning_rate=1e-3)
    layer = Linear(2, 3, bias=False)
    return TrainingPanel(recipe, [], model=layer, tokenizer=object(), prompts=[], **options)


def move(panel: TrainingPanel, **values: Any) -> None:
    for name, value in values.items():
        panel.controls.by_name[name].value = value


def until(happened: Any, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.005)


def started(panel: TrainingPanel) -> bool:
    return panel._live is not None and len(panel._live.history) > 0


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    yield
    until(lambda: not any(t.name == "ftlab-panel" for t in threading.enumerate()))


# --- requests, stops, errors ---------------------------------------------------------------------


@pytest.mark.usefixtures("fake")
def test_moving_a_slider_trains_with_its_value() -> None:
    panel = make()
    assert not panel.runs
    move(panel, lora_rank=32)
    panel.wait(30)
    assert panel.run.recipe.lora_rank == 32 and panel.run.status == "finished"
    assert panel.run.recipe.learning_rate == 1e-3  # untouched controls leave the recipe alone


@pytest.mark.usefixtures("fake")
def test_a_newer_request_ends_the_older_run_and_drops_it() -> None:
    panel = make(LONG)
    panel.train()
    until(lambda: started(panel))
    older = panel._live
    move(panel, max_steps=15)
    panel.wait(30)
    assert older.status == "stopped" and len(older.history) < LONG
    assert [len(run.history) for run in panel.runs] == [15]


@pytest.mark.usefixtures("fake")
def test_a_burst_of_changes_trains_the_last_one_only() -> None:
    panel = make()
    for rank in (1, 2, 4, 16, 32, 64):
        move(panel, lora_rank=rank)
    panel.wait(30)
    assert [run.recipe.lora_rank for run in panel.runs] == [64]


@pytest.mark.usefixtures("fake")
def test_stop_ends_the_run_and_keeps_what_it_has() -> None:
    panel = make(LONG)
    panel.buttons["Train"].click()
    until(lambda: started(panel))
    panel.buttons["Stop"].click()
    panel.wait(30)
    assert panel.run.status == "stopped" and 0 < len(panel.run.history) < LONG
    assert f"Stopped at step {len(panel.run.history):,}." in panel._chart.value


@pytest.mark.usefixtures("fake")
def test_a_panel_cell_that_is_run_twice_leaves_one_run_alive() -> None:
    first = make(LONG)
    first.train()
    until(lambda: started(first))
    second = make(20)  # the cell again: already this stops the first run
    first.wait(30)
    assert first.run.status == "stopped"
    second.train()
    second.wait(30)
    first.train()
    until(lambda: started(first))
    second.train()
    second.wait(30)
    first.wait(30)
    assert [run.status for run in first.runs] == ["stopped", "stopped"]
    assert [run.status for run in second.runs] == ["finished", "finished"]


def test_what_training_raises_is_shown_and_raised_by_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ftlab.DataError("rows.jsonl:3: <b>no answer</b>")

    monkeypatch.setattr(ftlab, "train", broken)
    panel = make()
    panel.train()
    with pytest.raises(ftlab.DataError, match="rows.jsonl:3"):
        panel.wait(30)
    assert "DataError: rows.jsonl:3: &lt;b&gt;no answer" in panel._chart.value
    monkeypatch.setattr(ftlab, "train", stand_in)
    panel.train()
    assert panel.wait(30).run.status == "finished"  # the error does not stick


@pytest.mark.usefixtures("fake")
def test_values_that_do_not_go_together_are_a_message_not_a_crash() -> None:
    panel = make(controls=["train_on_prompt", "mask_history"])
    move(panel, train_on_prompt=True, mask_history=True)
    with pytest.raises(ftlab.RecipeError, match="exclude each other"):
        panel.wait(30)
    assert "exclude each other" in panel._chart.value
    panel.buttons["Copy as YAML"].click()
    move(panel, mask_history=False)
    assert panel.wait(30).run.recipe.train_on_prompt


@pytest.mark.usefixtures("fake")
def test_wait_gives_up_after_its_timeout() -> None:
    panel = make(LONG)
    panel.train()
    with pytest.raises(TimeoutError):
        panel.wait(0.05)
    panel.close()
    panel.wait(30)


@pytest.mark.usefixtures("fake")
def test_foreground_trains_inside_the_callback() -> None:
    panel = make(foreground=True)
    move(panel, lora_rank=4)
    assert panel.run.status == "finished"  # no wait: it is done


def test_colab_is_foreground(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "google.colab", object())
    assert make()._worker.foreground


def test_an_interrupt_in_the_foreground_stops_quietly(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ftlab, "train", interrupted)
    panel = make(foreground=True)
    panel.train()
    panel.wait(1)
    assert "Interrupted." in panel._chart.value


def test_a_worker_never_runs_two_jobs_at_once() -> None:
    running, most = [], []

    def job(stop: threading.Event) -> None:
        running.append(1)
        most.append(len(running))
        stop.wait(0.02)
        running.pop()

    workers = [worker.Worker(job, delay=0.001) for _ in range(3)]
    for _ in range(30):
        for one in workers:
            one.request()
    for one in workers:
        one.wait(30)
    assert max(most) == 1


# --- the page ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("fake")
def test_earlier_runs_stay_pinned_ones_survive_clear() -> None:
    panel = make()
    for rank in (4, 16, 32):
        move(panel, lora_rank=rank)
        panel.wait(30)
    assert "lora_rank 4 → 16" in panel._chart.value
    panel.buttons["Pin"].click()
    for rank in (1, 2, 4, 8, 16, 64):
        move(panel, lora_rank=rank)
        panel.wait(30)
    assert len(panel.runs) == training.EARLIER + 2
    panel.buttons["Clear"].click()
    assert [run.recipe.lora_rank for run in panel.runs] == [32]


@pytest.mark.usefixtures("fake")
def test_drawing_is_throttled_and_the_last_frame_is_shown() -> None:
    panel, frames = make(400), []
    panel._chart.observe(lambda change: frames.append(change["new"]), names="value")
    begun = time.perf_counter()
    panel.train()
    panel.wait(60)
    seconds = time.perf_counter() - begun
    assert len(frames) <= seconds / training.FRAME_SECONDS + 4
    assert "400 of 400" in frames[-1] and "Finished." in frames[-1]
    assert "<b>6</b>" in frames[-1] and "<b>100.0 %</b>" in frames[-1]  # trained parameters


@pytest.mark.usefixtures("fake")
def test_the_still_picture_is_the_live_one() -> None:
    panel = make()
    panel.train()
    panel.wait(30)
    assert panel.still().svg == ftlab.plots.curves(panel.runs).svg == panel.run.plot().svg
    live = ftlab.plots.curves(panel.runs, width=600, height=356).svg
    assert panel._chart.value.endswith(live)


def test_copied_text_is_the_recipe_with_the_values_of_the_controls() -> None:
    panel = make(foreground=True)
    panel.controls.by_name["lora_rank"].unobserve_all("value")
    move(panel, lora_rank=32)
    expected = panel.base.replace(lora_rank=32)
    assert panel.copy("yaml") == expected.to_yaml()
    assert expected.to_yaml() in unescape(panel._copied.value)
    panel.buttons["Copy as Python"].click()
    assert expected.to_python() in unescape(panel._copied.value)
    assert ftlab.Recipe.from_yaml(panel.copy("yaml")).lora_rank == 32


def test_text_from_data_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    evil = "<img src=x onerror=alert(1)>"
    answers = import_module("ftlab.generate")  # as an attribute, ftlab.generate is the function
    monkeypatch.setattr(answers, "generate", lambda *_, **__: [evil])
    rows = [
        {"messages": [{"role": "user", "content": evil}, {"role": "assistant", "content": evil}]}
    ]
    panel = ftlab.panel(ftlab.Recipe(), rows, model=object(), tokenizer=object())
    assert panel._table.value.count("&lt;img") == 3 and "<img" not in panel._table.value


@pytest.mark.parametrize("name", [k for k, knob in KNOBS.items() if knob.slider or knob.choices])
def test_every_control_has_its_key_its_help_and_its_range(name: str) -> None:
    knob = KNOBS[name]
    made = controls.control(knob, knob.default)
    assert made.description == name
    tip = made.tooltip if made.has_trait("tooltip") else made.description_tooltip
    assert knob.help in tip
    assert knob.slider is None or " to " in tip
    values = controls.Controls(ftlab.Recipe(), [name], lambda _: None)
    assert values.changes() == {}


def test_a_recipe_outside_the_sliders_range_is_shown_as_it_is() -> None:
    recipe = ftlab.Recipe(learning_rate=1e-7, lora_rank=24, max_samples=5000, max_steps=4)
    made = controls.Controls(recipe, None, lambda _: None)
    shown = {name: made.by_name[name].value for name in ("lora_rank", "max_samples", "max_steps")}
    assert shown == {"lora_rank": 24, "max_samples": 5000, "max_steps": 4}
    assert made.by_name["learning_rate"].value == pytest.approx(1e-7)
    assert made.changes() == {}


def test_an_unknown_or_unbounded_control_is_a_recipe_error() -> None:
    with pytest.raises(ftlab.RecipeError, match="lora_rnk"):
        make(controls=["lora_rnk"])
    with pytest.raises(ftlab.RecipeError, match="no range"):
        make(controls=["run_name"])


def test_only_what_both_ipywidgets_share_is_used() -> None:
    panel = make(controls=["learning_rate", "weight_decay", "max_steps", "lora_rank",
                           "lr_scheduler_type", "use_dora"])  # fmt: skip
    assert check_shared(panel.widget) == set(SHARED) - {"Text", "IntText"}


def test_a_panel_shows_as_a_widget_with_words_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw: shown.append(data))
    panel = make()
    panel._ipython_display_()
    assert shown[0]["text/plain"].startswith("Training panel")
    view = shown[0]["application/vnd.jupyter.widget-view+json"]
    assert view["model_id"] == panel.widget.model_id


# --- with the shipped model ----------------------------------------------------------------------


def test_every_run_starts_from_the_same_base_model(tiny: tuple[Any, Any]) -> None:
    model, tokenizer = tiny
    data = ftlab.read("world_qa").take(16)
    recipe = ftlab.Recipe(max_steps=2, per_device_train_batch_size=4, learning_rate=1e-2)
    panel = ftlab.panel(recipe, data, model=model, tokenizer=tokenizer, prompts=["Who are you?"])
    before = {name: value.clone() for name, value in model.named_parameters()}
    for _ in range(2):
        panel.train()
        panel.wait(120)
    first, second = panel.runs
    assert [r["loss"] for r in first.history] == pytest.approx([r["loss"] for r in second.history])
    assert all((before[name] == value).all() for name, value in model.named_parameters())
    assert panel.after[0] != "" and "2 of 2" in panel._chart.value
    twin = ftlab.train(recipe, data, model=model, tokenizer=tokenizer, save=False)
    assert [r["loss"] for r in twin.history] == pytest.approx([r["loss"] for r in first.history])
