"""Tokens computed and tokens that count: the report is what a run's batches hold."""

from __future__ import annotations

import copy

import pytest
import torch

import ftlab
from ftlab import batches, padding
from ftlab.guards import Guards
from ftlab.tokens import IGNORED

TEXTS = [{"text": f"Ada is a doctor, number {n}. " * (1 + n * 7 % 5)} for n in range(22)]
PAIRS = {"sft": "world_qa", "dpo": "polite_pairs", "rm": "polite_pairs"}


def recipe(**changes):
    values = {"per_device_train_batch_size": 4, "num_train_epochs": 1, "cutoff_len": 192, "seed": 5}
    return ftlab.Recipe(**{**values, **changes})


def rows_of(stage):
    return TEXTS if stage == "pt" else ftlab.read(PAIRS[stage]).take(22)


@pytest.fixture()
def seen(monkeypatch):
    """Every batch that reaches a model, as it comes out of the collator."""
    caught = []
    plain = Guards.training_step

    def spy(self, model, inputs, num_items_in_batch=None):
        caught.append({key: value.clone() for key, value in inputs.items()})
        return plain(self, model, inputs, num_items_in_batch)

    monkeypatch.setattr(Guards, "training_step", spy)
    return caught


def counted(batch):
    """Positions, tokens and trained tokens of one batch, counted one by one."""
    positions = tokens = trained = 0
    packed = "position_ids" in batch
    for line, ids in enumerate(batch["input_ids"].tolist()):
        for at, _ in enumerate(ids):
            positions += 1
            if packed:  # a token of padding stands at position 0 and is followed by another 0
                starts = batch["position_ids"][line].tolist() + [0]
                tokens += not (starts[at] == 0 and starts[at + 1] == 0)
            else:
                tokens += int(batch["attention_mask"][line, at])
            if "labels" in batch:
                trained += at > 0 and int(batch["labels"][line, at]) != IGNORED
            elif "completion_mask" in batch:
                trained += int(batch["completion_mask"][line, at])
    return positions, tokens, trained


WAYS = {
    "padded": {"packing": False},
    "grouped": {"packing": False, "train_sampling_strategy": "group_by_length"},
    "packed": {"neat_packing": True},
    "stream": {"packing": True},
}


@pytest.mark.parametrize(
    ("stage", "way"),
    [
        ("sft", "padded"), ("sft", "grouped"), ("sft", "packed"),
        ("pt", "grouped"), ("pt", "packed"), ("pt", "stream"),
        ("dpo", "padded"), ("dpo", "grouped"), ("rm", "grouped"),
    ],
)  # fmt: skip
def test_the_report_is_what_the_batches_of_a_run_hold(stage, way, tiny, seen):
    settings, rows = recipe(stage=stage), rows_of(stage)
    report = padding.token_report(settings, rows, tiny[1])
    changes = {k: v for k, v in WAYS[way].items() if stage in ("pt", "sft") or k[0] == "t"}
    run = ftlab.train(
        settings.replace(**changes), rows,
        model=tiny[0], tokenizer=tiny[1], save=False, quiet=True,
    )  # fmt: skip
    positions, tokens, trained = (sum(x) for x in zip(*map(counted, seen), strict=True))
    found = report[way]
    assert (found.batches, found.positions, found.tokens) == (len(seen), positions, tokens)
    assert found.padding == positions - tokens and found.rows == len(rows)
    assert run.summary["positions"] == positions and run.history[-1]["tokens"] == tokens
    assert run.summary["padding_share"] == pytest.approx(found.padding / positions)
    assert "padding share" in run._repr_html_()
    if stage != "rm":
        assert found.trained == trained == run.summary["loss_tokens"]


def test_every_way_trains_the_same_tokens_and_computes_fewer_positions(tiny):
    rows = ftlab.read("world_qa").take(300)
    report = padding.token_report(recipe(cutoff_len=512), rows, tiny[1])
    assert len({found.trained for found in report.values()}) == 1
    assert len({found.tokens for found in report.values()}) == 1
    padded, grouped, packed = (report[way] for way in ("padded", "grouped", "packed"))
    assert padded.positions > grouped.positions and padded.positions > packed.positions
    assert packed.fill > 0.95 and padded.fill is None and padded.useful < grouped.useful <= 1
    assert "stream" not in report and "packed" not in padding.token_report(
        recipe(stage="dpo"), rows_of("dpo"), tiny[1]
    )


def test_a_stage_that_samples_its_rows_has_no_report(tiny):
    with pytest.raises(ftlab.RecipeError, match="grpo samples its rows"):
        padding.token_report(recipe(stage="grpo", reward_funcs="exact"), TEXTS, tiny[1])


# --- the order -----------------------------------------------------------------------------------


def test_groups_hold_every_row_once_and_rows_of_like_length():
    lengths = [(37 * n) % 101 + 1 for n in range(203)]
    order = list(padding.LengthGroups(lengths, 8, seed=3))
    assert sorted(order) == list(range(203))
    groups = [[lengths[row] for row in order[at : at + 8]] for at in range(0, 200, 8)]
    assert max(groups[0]) == 101  # the longest first: what does not fit fails at once
    spread = sum(max(group) - min(group) for group in groups) / len(groups)
    assert spread < 20  # of 100; rows drawn at random spread over about 80
    assert [max(g) for g in groups] != sorted((max(g) for g in groups), reverse=True)


def test_the_order_depends_on_seed_and_epoch_alone():
    lengths = [n % 17 for n in range(100)]
    first, again, other = (padding.LengthGroups(lengths, 4, seed) for seed in (1, 1, 2))
    torch.rand(9)  # PyTorch's own generator has no say
    assert list(first) == list(again) != list(other)
    again.set_epoch(1)
    assert list(first) != list(again)


def test_fewer_rows_than_a_group_are_one_batch():
    assert sorted(padding.LengthGroups([3, 1, 2], 8, seed=0)) == [0, 1, 2]


def test_sequential_is_the_order_of_the_file(tiny, seen):
    rows = rows_of("sft").take(8)
    settings = recipe(train_sampling_strategy="sequential")
    ftlab.train(settings, rows, model=tiny[0], tokenizer=tiny[1], save=False, quiet=True)
    ids = [line for batch in seen for line in batch["input_ids"].tolist()]
    for row, found in zip(rows, ids, strict=True):
        wanted = ftlab.encode(tiny[1], row).input_ids
        assert found[: len(wanted)] == wanted


def test_kto_keeps_the_order_that_the_recipe_names(tiny, seen):
    rows = ftlab.Data(
        {
            "prompt": [{"role": "user", "content": f"Who is {n}?"}],
            "completion": [{"role": "assistant", "content": "A doctor. " * (1 + n % 5)}],
            "label": n % 2 == 0,
        }
        for n in range(8)
    )
    settings = recipe(stage="kto", train_sampling_strategy="group_by_length")
    ftlab.train(settings, rows, model=tiny[0], tokenizer=tiny[1], save=False, quiet=True)
    grouped = sum(batch["input_ids"].numel() for batch in seen)
    report = padding.token_report(settings, rows, tiny[1])
    assert grouped == report["grouped"].positions <= report["padded"].positions


def test_a_resumed_run_goes_on_in_the_same_order(tiny, tmp_path):
    """In the second epoch, whose order transformers' own sampler would draw anew."""
    settings = recipe(
        dataset="world_qa", max_samples=12, num_train_epochs=2, max_steps=-1, save_steps=2,
        train_sampling_strategy="group_by_length", learning_rate=1e-3,
    )  # fmt: skip
    whole = ftlab.train(settings.replace(output_dir=str(tmp_path / "whole")), quiet=True)

    class Stop:
        def on_start(self, run): ...
        def on_end(self, run): ...
        def on_log(self, run, record):
            if record["step"] == 5:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cut = settings.replace(output_dir=str(tmp_path / "cut"))
        ftlab.train(cut, quiet=True, observers=[Stop()])
    resumed = ftlab.resume(tmp_path / "cut")
    assert [r["loss"] for r in resumed.history] == pytest.approx(
        [r["loss"] for r in whole.history], abs=1e-6
    )


# --- packing changes no loss ---------------------------------------------------------------------


def test_the_loss_of_packed_samples_is_that_of_the_samples_weighted_by_their_tokens(tiny):
    model, tokenizer = copy.deepcopy(tiny[0]).eval(), tiny[1]
    rows, settings = rows_of("sft"), recipe(neat_packing=True)
    packed, _ = batches.dataset(tokenizer, rows, settings)
    batch = batches.PackedCollator(tokenizer.pad_token_id)(list(packed))
    batch.pop("tokens")
    single, _ = batches.dataset(tokenizer, rows, settings.replace(neat_packing=False))
    with torch.no_grad():
        together = model(**batch, use_cache=False).loss.item()
        total = tokens = 0
        for row in single:
            ids, labels = torch.tensor([row["input_ids"]]), torch.tensor([row["labels"]])
            trained = int((labels[:, 1:] != IGNORED).sum())
            total += model(input_ids=ids, labels=labels, use_cache=False).loss.item() * trained
            tokens += trained
    assert together == pytest.approx(total / tokens, abs=1e-5)


# --- the key -------------------------------------------------------------------------------------


def test_older_switches_are_read_as_the_key_of_today():
    assert ftlab.Recipe(group_by_length=True).train_sampling_strategy == "group_by_length"
    assert ftlab.Recipe(disable_shuffling="true").train_sampling_strategy == "sequential"
    assert ftlab.Recipe(group_by_length=False).train_sampling_strategy == "random"
    with pytest.raises(ftlab.RecipeError, match="contradict each other"):
        ftlab.Recipe(group_by_length=True, disable_shuffling=True)
    with pytest.raises(ftlab.RecipeError, match="group_by_length='often': expected true or false"):
        ftlab.Recipe(group_by_length="often")


def test_grouping_rests_where_it_changes_nothing():
    asked = {"train_sampling_strategy": "group_by_length"}
    packed, stream = recipe(neat_packing=True, **asked), recipe(stage="pt", **asked)
    for settings in (packed, stream):
        assert not padding.grouped(settings) and "no effect with packing" in settings.notices[0]
    online = recipe(stage="grpo", reward_funcs="exact", **asked)
    assert not padding.grouped(online)
    assert "train_sampling_strategy: no effect in stage grpo." in online.notices
    assert padding.grouped(recipe(**asked)) and not recipe(**asked).notices
