"""From rows to batches: what reaches the model is what ftlab.encode shows, packed or not."""

from __future__ import annotations

import copy

import pytest
import torch

import ftlab
from ftlab import batches
from ftlab.chat import with_system
from ftlab.tokens import IGNORED
from ftlab.train import CourseTrainer

ROUND = [
    {"role": "user", "content": "Who is Ada?"},
    {"role": "assistant", "content": "A doctor."},
]
TEXTS = [{"text": f"Ada is a doctor, number {n}. " * (1 + n % 4)} for n in range(12)]


@pytest.fixture(scope="module")
def rows():
    return ftlab.read("world_qa").take(12)


def recipe(**changes):
    values = {"per_device_train_batch_size": 3, "learning_rate": 1e-3, "num_train_epochs": 1}
    return ftlab.Recipe(**{**values, "seed": 7, **changes})


@pytest.fixture()
def seen(monkeypatch):
    """Every batch that reaches the model."""
    caught = []
    plain = CourseTrainer.compute_loss

    def spy(self, model, inputs, *args, **kwargs):
        caught.append({key: value.clone() for key, value in inputs.items()})
        return plain(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(CourseTrainer, "compute_loss", spy)
    return caught


def samples(batch):
    """The samples in a batch as (ids, labels); packed ones taken apart where positions restart."""
    for line in range(len(batch["input_ids"])):
        ids, labels = batch["input_ids"][line].tolist(), batch["labels"][line].tolist()
        if "attention_mask" in batch:
            length = int(batch["attention_mask"][line].sum())
            assert set(labels[length:]) <= {IGNORED}
            yield tuple(ids[:length]), labels[:length]
            continue
        positions = batch["position_ids"][line].tolist()
        starts = [k for k, p in enumerate(positions) if p == 0] + [len(ids)]
        for start, stop in zip(starts, starts[1:], strict=False):
            if stop - start > 1:  # one token alone is padding
                yield tuple(ids[start:stop]), labels[start:stop]


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("changes", [{}, {"packing": True}, {"neat_packing": True}])
def test_the_batches_of_sft_are_the_rows_as_encode_shows_them(changes, method, rows, tiny, seen):
    run = ftlab.train(
        recipe(cutoff_len=96, finetuning_type=method, default_system="Be kind.", **changes),
        rows, model=tiny[0], tokenizer=tiny[1], save=False, quiet=True,
    )  # fmt: skip
    wanted = {}
    for row in rows:
        enc = ftlab.encode(tiny[1], with_system(row, "Be kind."))
        wanted[tuple(enc.input_ids)] = enc.labels
    for batch in seen:
        for ids, labels in samples(batch):
            assert labels == wanted.pop(ids)
    assert not wanted  # every row once
    packed = bool(changes.keys() & {"packing", "neat_packing"})
    assert ("position_ids" in seen[0]) == packed
    assert len(seen) < 4 if packed else len(seen) == 4
    assert run.history[-1]["tokens"] == sum(len(ids) for b in seen for ids, _ in samples(b))


@pytest.mark.parametrize("packing", ["windows", "neat", "off"])
def test_the_batches_of_pt_are_the_texts_as_encode_shows_them(packing, tiny, seen):
    changes = {"windows": {}, "neat": {"neat_packing": True}, "off": {"packing": False}}[packing]
    ftlab.train(
        recipe(stage="pt", cutoff_len=64, **changes), TEXTS,
        model=tiny[0], tokenizer=tiny[1], save=False, quiet=True,
    )  # fmt: skip
    texts = [ftlab.encode(tiny[1], row).input_ids for row in TEXTS]
    found = [pair for batch in seen for pair in samples(batch)]
    if packing == "windows":  # one stream, cut every 64 tokens
        stream = [i for ids in texts for i in ids]
        windows = {tuple(stream[at : at + 64]) for at in range(0, len(stream), 64)}
        assert {ids for ids, _ in found} == windows
        assert all(list(ids) == labels for ids, labels in found)
    else:
        assert sorted(ids for ids, _ in found) == sorted(map(tuple, texts))
        first = IGNORED if packing == "neat" else None
        for ids, labels in found:
            # Nothing stands before the first token, so in a window no other sample may predict it.
            assert labels == [ids[0] if first is None else first, *ids[1:]]


def losses(model, batch):
    """The loss of each trained token."""
    batch = {key: value for key, value in batch.items() if key != "tokens"}
    labels = batch.pop("labels")
    with torch.no_grad():
        logits = model(**batch, use_cache=False).logits
    found = torch.nn.functional.cross_entropy(
        logits[:, :-1].transpose(1, 2).float(), labels[:, 1:], reduction="none"
    )
    return found[labels[:, 1:] != IGNORED]


@pytest.mark.parametrize("stage", ["sft", "pt"])
def test_packed_samples_do_not_see_each_other(stage, rows, tiny):
    """The loss of every token is that of its sample alone; with plain packing it is not."""
    model, tokenizer = copy.deepcopy(tiny[0]).eval(), tiny[1]
    settings = recipe(stage=stage, cutoff_len=128, neat_packing=True)
    packed, _ = batches.dataset(tokenizer, rows if stage == "sft" else TEXTS, settings)
    batch = batches.PackedCollator(tokenizer.pad_token_id)(list(packed))
    assert len(packed) < 12 and batch["input_ids"].shape[0] > 1
    together = losses(model, batch)
    alone = torch.cat(
        [
            losses(model, {"input_ids": torch.tensor([ids]), "labels": torch.tensor([labels])})
            for ids, labels in samples(batch)
        ]
    )
    assert together.shape == alone.shape and torch.allclose(together, alone, atol=1e-4)
    crossing = {key: batch[key] for key in ("input_ids", "labels")}
    assert not torch.allclose(losses(model, crossing), alone, atol=1e-2)


def test_packing_fills_windows_and_cuts_no_sample(rows, tiny):
    packed, report = batches.dataset(tiny[1], rows, recipe(cutoff_len=100, packing=True))
    assert all(len(window) <= 100 for window in packed["input_ids"])
    assert sum(map(len, packed["seq_lengths"])) == report.examples == len(rows)
    fullest = sum(map(len, packed["input_ids"])) / (100 * len(packed))
    assert fullest > 0.8


# --- rows that are too long ----------------------------------------------------------------------

LONG = {"messages": ROUND * 6, "source": "a.json:3"}
SHORT = {"messages": ROUND, "source": "a.json:1"}


def fitted(tokenizer, rows, strategy, limit=60):
    settings = recipe(cutoff_len=limit, truncation_strategy=strategy)
    return batches.encode_all(tokenizer, rows, settings)


def test_a_long_row_stops_with_its_place_and_the_length_that_would_do(tiny):
    with pytest.raises(ftlab.DataError, match=r"a\.json:3: .* 1 of 2 rows are longer .*95 % of"):
        fitted(tiny[1], [SHORT, LONG], "error")


def test_deleted_rows_are_counted(tiny):
    kept, report = fitted(tiny[1], [SHORT, LONG], "delete")
    assert len(kept) == report.kept == 1 and report.deleted == ["a.json:3"]
    said = "1 of 2 rows left out, longer than cutoff_len (the first: a.json:3)."
    assert report.notices() == [said]


def test_no_usable_row_names_the_length_to_set(tiny):
    length = len(ftlab.encode(tiny[1], LONG))
    with pytest.raises(ftlab.DataError, match=rf"0 usable rows of 2.* fit in {length} tokens"):
        fitted(tiny[1], [LONG, LONG], "delete")


def test_split_keeps_every_answer_once_and_each_part_fits(tiny):
    kept, report = fitted(tiny[1], [LONG], "split")
    assert len(kept) > 1 and all(len(part) <= 60 for part in kept) and report.split == ["a.json:3"]
    whole = ftlab.encode(tiny[1], LONG)
    assert sum(part.trained for part in kept) == whole.trained
    assert [i for part in kept for i in part.input_ids] == whole.input_ids
    text, _ = fitted(tiny[1], [{"text": "one two " * 99}], "split")
    assert all(len(part) <= 60 for part in text) and len(text) > 1


def test_left_keeps_the_end(tiny):
    kept, report = fitted(tiny[1], [SHORT, LONG], "left")
    whole = ftlab.encode(tiny[1], LONG)
    assert kept[1].input_ids == whole.input_ids[-len(kept[1]) :] and report.shortened == [
        "a.json:3"
    ]
    pair = {"prompt": ROUND * 5 + ROUND[:1], "chosen": ROUND[1:], "rejected": ROUND[1:]}
    short = ftlab.encode(tiny[1], pair, cutoff_len=60, truncation_strategy="left")
    assert len(short) <= 60 and short.chosen.trained == ftlab.encode(tiny[1], pair).chosen.trained


@pytest.mark.parametrize("strategy", ["left", "split"])
def test_a_round_that_is_too_long_alone_is_named(tiny, strategy):
    with pytest.raises(ftlab.DataError, match=r"a\.json:3: .*cutoff_len is 12"):
        fitted(tiny[1], [LONG], strategy, limit=12)


def test_a_batch_of_rows_exactly_at_cutoff_has_a_loss(tiny):
    limit = len(ftlab.encode(tiny[1], SHORT))
    settings = recipe(cutoff_len=limit, per_device_train_batch_size=1, max_steps=1)
    run = ftlab.train(settings, [SHORT], model=tiny[0], tokenizer=tiny[1], save=False, quiet=True)
    assert run.history[0]["loss"] > 0


def test_what_was_done_to_rows_is_said_in_the_run(tiny):
    settings = recipe(cutoff_len=60, truncation_strategy="delete", max_steps=1)
    attack = {"messages": [{"role": "user", "content": "<|im_end|>"}, ROUND[1]]}
    run = ftlab.train(
        settings, [SHORT, LONG, attack], model=tiny[0], tokenizer=tiny[1], save=False, quiet=True
    )
    assert "left out, longer than cutoff_len" in run.notices[0]
    assert "1 of 3 rows: '<|im_end|>' in a user text is encoded as plain text." in run.notices


# --- stages and kinds ----------------------------------------------------------------------------

PAIR = {"prompt": ROUND[:1], "chosen": ROUND[1:], "rejected": ROUND[1:]}


@pytest.mark.parametrize(
    ("stage", "row", "message"),
    [
        ("sft", TEXTS[0], "stage: sft .* plain text. Use stage: pt"),
        ("pt", SHORT, "stage: pt .* conversations. Use stage: sft"),
        ("sft", PAIR, "stage: sft .* preference pairs. Use stage: rm or dpo"),
        ("sft", {"prompt": [], "completion": [], "label": True}, r"KTO\). Use stage: kto"),
    ],
)
def test_a_stage_and_rows_that_do_not_fit_are_both_named_before_anything_loads(stage, row, message):
    with pytest.raises(ftlab.RecipeError, match=message):
        ftlab.train(ftlab.Recipe(stage=stage, model_name_or_path="/no/such/model"), [row])


def test_rows_of_two_kinds_are_an_error_that_names_one():
    with pytest.raises(ftlab.DataError, match="b:2 is plain text and a.json:1 is a conversation"):
        ftlab.train(recipe(), [SHORT, {**TEXTS[0], "source": "b:2"}])


def test_a_recipe_template_gives_a_base_tokenizer_its_chat_format(tiny):
    base = copy.deepcopy(tiny[1])
    base.chat_template = None
    settings = recipe(max_steps=1)
    with pytest.raises(ftlab.ModelError, match="no chat template"):
        ftlab.train(settings, [SHORT], model=tiny[0], tokenizer=base, save=False)
    run = ftlab.train(
        settings.replace(template="alpaca"), [SHORT],
        model=tiny[0], tokenizer=base, save=False, quiet=True,
    )  # fmt: skip
    assert "### Response:" in run.tokenizer.chat_template and base.chat_template is None


def test_training_stops_where_serving_would_differ(tiny):
    """A template that writes another prompt than it trained with."""
    other = copy.deepcopy(tiny[1])
    other.chat_template += "{% if add_generation_prompt %}{{ 'Now: ' }}{% endif %}"
    with pytest.raises(ftlab.DataError, match="the prompt that asks for the last answer is"):
        ftlab.train(recipe(), [SHORT], model=tiny[0], tokenizer=other, save=False)


def test_mixed_datasets_are_drawn_by_turns(tmp_path, tiny):
    mix = pytest.importorskip("ftlab.data.mix")
    assert mix
    for name in "ab":
        lines = [f'{{"instruction": "{name}{n}", "output": "yes"}}' for n in range(4)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    files = f"{tmp_path / 'a.jsonl'},{tmp_path / 'b.jsonl'}"
    settings = ftlab.Recipe(
        dataset=files, mix_strategy="interleave_under", interleave_probs="0.5,0.5"
    )
    drawn, _ = batches.training_rows(settings, None, None)
    order = [row["messages"][0]["content"][0] for row in drawn]
    assert set(order) == {"a", "b"} and order != sorted(order)
