"""What a preference run shows: curves, controls, read-out, and a notice when it runs away."""

from types import SimpleNamespace

import pytest

import ftlab
from ftlab.guards import Alarm, runaway
from ftlab.panels.controls import default_names
from ftlab.plots import curves


def run(history, **changes):
    recipe = ftlab.Recipe(stage="dpo", **changes)
    return SimpleNamespace(
        recipe=recipe, history=history, total_steps=len(history), status="finished", notices=[]
    )


def steps(**values):
    """Ten records; a list is spread over them, from its first value to its last."""
    spread = {
        key.replace("__", "/"): [a + (b - a) * i / 9 for i in range(10)]
        for key, (a, b) in values.items()
    }
    return [{"step": i + 1, **{k: v[i] for k, v in spread.items()}} for i in range(10)]


@pytest.mark.parametrize(
    ("changes", "values", "word"),
    [
        ({}, {"kl": (0, 2.0)}, "KL to the reference is"),
        ({"pref_loss": "simpo"}, {"logps__chosen": (-1, -4)}, "chosen answers became less likely"),
        ({}, {"length": (20, 90)}, "answers went from"),
        ({}, {"length": (40, 2)}, "answers went from"),
        ({"stage": "ppo"}, {"kl": (0, 60)}, "nats an answer"),
    ],
)
def test_what_runs_away_is_said_once(changes, values, word, capsys):
    watched = run([], **{k: v for k, v in changes.items() if k != "stage"})
    if "stage" in changes:
        watched.recipe = ftlab.Recipe(**changes)
    alarm = Alarm(watched)
    for record in steps(**values):
        watched.history.append(record)
        alarm.on_log(None, None, None)
    [notice] = watched.notices
    assert word in notice and "Lower learning_rate" in notice
    assert capsys.readouterr().err.count(word) == 1


def test_a_calm_run_says_nothing():
    calm = steps(kl=(0, 0.1), logps__chosen=(-30, -45), length=(20, 25))
    assert list(runaway(calm, ftlab.Recipe(stage="dpo"))) == []
    assert list(runaway([], ftlab.Recipe(stage="dpo"))) == []


def test_a_quiet_alarm_writes_no_line(capsys):
    watched = run(steps(kl=(1, 2)))
    Alarm(watched, quiet=True).on_log(None, None, None)
    assert len(watched.notices) == 1 and capsys.readouterr().err == ""


def test_chosen_and_rejected_rewards_share_a_chart_in_two_rows_of_charts():
    history = steps(loss=(0.7, 0.3), rewards__chosen=(0, -1), rewards__rejected=(0, -3),
                    rewards__margins=(0, 2), rewards__accuracies=(0, 1), kl=(0, 0.1),
                    entropy=(1, 0.8), grad_norm=(1, 1), learning_rate=(1e-3, 0))  # fmt: skip
    picture = curves([run(history)])
    for title in ("rewards (rejected dashed)", "reward margin", "pairs ranked right",
                  "KL to reference", "entropy", "gradient norm"):  # fmt: skip
        assert picture.svg.count(f">{title}<") == 1
    assert picture.svg.count("stroke-dasharray") == 1
    assert 'height="472"' in picture.svg  # a second row of small charts
    plain = [{k: r[k] for k in ("step", "loss", "grad_norm", "learning_rate")} for r in history]
    assert 'height="360"' in curves([run(plain)]).svg


@pytest.mark.parametrize(
    ("changes", "shown", "hidden"),
    [
        ({"stage": "dpo"}, {"pref_beta", "pref_ftx", "dpo_label_smoothing"}, {"simpo_gamma"}),
        ({"stage": "dpo", "pref_loss": "simpo"}, {"simpo_gamma", "pref_ftx"}, {"cliprange"}),
        ({"stage": "dpo", "pref_loss": "orpo"}, {"pref_beta"}, {"pref_ftx"}),
        ({"stage": "kto"}, {"kto_chosen_weight", "kto_rejected_weight"}, {"simpo_gamma"}),
        ({"stage": "ppo"}, {"ppo_target", "cliprange"}, {"pref_beta"}),
        ({"stage": "sft"}, {"learning_rate"}, {"pref_beta", "kl_coef"}),
    ],
)
def test_the_panel_offers_the_knobs_of_the_stage(changes, shown, hidden):
    names = set(default_names(ftlab.Recipe(**changes)))
    assert shown <= names and not hidden & names


@pytest.mark.parametrize("stage", ["dpo", "rm"])
def test_the_panel_trains_on_pairs_and_reads_out_the_margin(stage, tiny):
    rows = ftlab.read("polite_pairs").take(8)
    recipe = ftlab.Recipe(stage=stage, max_steps=2, per_device_train_batch_size=4)
    panel = ftlab.panel(recipe, rows, model=tiny[0], tokenizer=tiny[1], foreground=True)
    panel.train()
    panel.wait(120)
    assert panel.run.status == "finished"
    assert "margin" in panel._chart.value and "ranked right" in panel._chart.value
    assert len(panel.samples) == (0 if stage == "rm" else 3)
    if stage == "dpo":
        assert panel.samples[0][1] == rows[0]["chosen"][0]["content"]
    panel.close()
