"""Preference stages: the losses are the papers', the reference is the model at the start."""

import math
import sys

import pytest
import torch
from torch.nn.functional import logsigmoid

import ftlab
from ftlab import batches
from ftlab.adapters import adapt, trainable_parameters
from ftlab.alignment import preference
from ftlab.alignment.rewards import preference_accuracy, rewards
from ftlab.errors import DataError, RecipeError
from ftlab.tokens import IGNORED
from ftlab.train import reference_for

BRIEF = {"per_device_train_batch_size": 4, "learning_rate": 1e-3, "max_steps": 3, "lora_rank": 4}
LOG2 = math.log(2)


@pytest.fixture(scope="module")
def pairs():
    return ftlab.read("polite_pairs").take(12)


@pytest.fixture(scope="module")
def labels():
    return ftlab.read("polite_labels").take(12)


def brief(**changes):
    return ftlab.Recipe(**{**BRIEF, "stage": "dpo", **changes})


def train(recipe, rows, tiny, **options):
    model, tokenizer = tiny
    options = {"save": False, "quiet": True, **options}
    return ftlab.train(recipe, rows, model=model, tokenizer=tokenizer, **options)


def losses(run):
    return [record["loss"] for record in run.history]


def logps(model, batch, mean=False):
    """Log-probability of each answer, summed over its tokens or their mean."""
    keys = ("input_ids", "attention_mask")
    with torch.no_grad():
        logits = model(**{key: batch[key] for key in keys}).logits.log_softmax(-1)
    mask = batch["completion_mask"][:, 1:]
    tokens = logits[:, :-1].gather(-1, batch["input_ids"][:, 1:, None])[..., 0] * mask
    return tokens.sum(1) / (mask.sum(1) if mean else 1)


def by_hand(recipe, model, reference, batch):
    """The losses of the papers, in a few lines each."""
    beta, smooth = recipe.pref_beta, recipe.dpo_label_smoothing
    ours, mean = logps(model, batch), logps(model, batch, mean=True)
    chosen, rejected = mean.chunk(2)
    sft = -chosen.mean()
    if recipe.pref_loss == "orpo":  # Hong et al. 2024, equations 6 and 7
        odds = [p - torch.log1p(-p.exp()) for p in (chosen, rejected)]
        return sft - beta * logsigmoid(odds[0] - odds[1]).mean()
    if recipe.pref_loss == "simpo":  # Meng et al. 2024, equation 6
        margin = beta * (chosen - rejected) - recipe.simpo_gamma
        return -logsigmoid(margin).mean() + recipe.pref_ftx * sft
    good, bad = (ours - logps(reference, batch)).chunk(2)
    margin = beta * (good - bad)
    if recipe.pref_loss == "ipo":  # Azar et al. 2023, equation 17, per token
        good, bad = (mean - logps(reference, batch, mean=True)).chunk(2)
        return ((good - bad - 1 / (2 * beta)) ** 2).mean()
    per_pair = {
        "hinge": torch.relu(1 - margin),  # Zhao et al. 2023
        "sigmoid": -(1 - smooth) * logsigmoid(margin) - smooth * logsigmoid(-margin),
        "robust": (-(1 - smooth) * logsigmoid(margin) + smooth * logsigmoid(-margin))
        / (1 - 2 * smooth),  # Chowdhury et al. 2024, equation 9
    }
    return per_pair[recipe.pref_loss].mean() + recipe.pref_ftx * sft


@pytest.fixture
def compared(monkeypatch, tiny):
    """Each loss of the trainer beside ``by_hand`` on the same batch and weights."""
    seen = []

    def watch(trainer, hand):
        plain = trainer.compute_loss

        def spy(self, model, inputs, *args, **kwargs):
            expected = hand(self.run.recipe, model, tiny[0], inputs)
            loss = plain(self, model, inputs, *args, **kwargs)
            seen.append((float(loss.detach()), float(expected)))
            return loss

        monkeypatch.setattr(trainer, "compute_loss", spy)
        return seen

    return watch


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"pref_loss": "hinge"},
        {"pref_loss": "ipo"},
        {"pref_loss": "robust", "dpo_label_smoothing": 0.2},
        {"dpo_label_smoothing": 0.2},
        {"pref_ftx": 0.5},
        {"pref_loss": "orpo"},
        {"pref_loss": "simpo", "pref_beta": 2.0},
        {"pref_loss": "simpo", "pref_ftx": 0.5},
    ],
    ids=str,
)
def test_the_loss_is_that_of_the_paper(changes, compared, pairs, tiny):
    recipe = brief(**changes)
    kind = {"orpo": preference.OddsTrainer, "simpo": preference.MarginTrainer}
    seen = compared(kind.get(recipe.pref_loss, preference.PairTrainer), by_hand)
    run = train(recipe, pairs, tiny)
    assert len(seen) == 3 and run.status == "finished"
    for loss, expected in seen:
        assert loss == pytest.approx(expected, abs=1e-5)
    assert seen[0][0] != seen[2][0]


def kto_by_hand(recipe, model, reference, batch):
    """Ethayarajh et al. 2024, equations 7 and 8."""
    other = {key.removeprefix("KL_"): v for key, v in batch.items() if key.startswith("KL_")}
    strayed = (logps(model, other) - logps(reference, other)).mean().clamp(min=0)
    gap = recipe.pref_beta * (logps(model, batch) - logps(reference, batch) - strayed)
    good = batch["label"].bool()
    each = torch.where(
        good,
        recipe.kto_chosen_weight * (1 - gap.sigmoid()),
        recipe.kto_rejected_weight * (1 - (-gap).sigmoid()),
    )
    sft = -logps(model, batch, mean=True)[good]
    added = recipe.pref_ftx * sft.mean() * len(good) / good.sum() if good.any() else 0
    return each.mean() + added


@pytest.mark.parametrize("ftx", [0.0, 0.3])
def test_the_loss_of_kto_is_that_of_the_paper(ftx, compared, labels, tiny):
    seen = compared(preference.LabelTrainer, kto_by_hand)
    recipe = brief(stage="kto", kto_chosen_weight=1.5, kto_rejected_weight=0.5, pref_ftx=ftx)
    run = train(recipe, labels, tiny)
    for loss, expected in seen:
        assert loss == pytest.approx(expected, abs=1e-5)
    assert len(seen) == 3 and 0 <= run.history[-1]["rewards/accuracies"] <= 1


def test_a_reward_model_learns_bradley_terry(compared, pairs, tiny):
    def hand(recipe, model, reference, batch):
        with torch.no_grad():
            scores = model(**{k: batch[k] for k in ("input_ids", "attention_mask")}).logits
        chosen, rejected = scores[:, 0].chunk(2)
        return -logsigmoid(chosen - rejected).mean()

    seen = compared(preference.ScoreTrainer, hand)
    run = train(brief(stage="rm", max_steps=12), pairs, tiny)
    for loss, expected in seen:
        assert loss == pytest.approx(expected, abs=1e-5)
    assert run.history[-1]["rewards/margins"] > run.history[0]["rewards/margins"]
    record = run.history[-1]
    margin = record["rewards/chosen"] - record["rewards/rejected"]
    assert margin == pytest.approx(record["rewards/margins"], abs=1e-5)


@pytest.mark.parametrize("method", ["full", "freeze", "lora"])
@pytest.mark.parametrize("asked_before", [False, True])
def test_dpo_begins_at_log_2_and_leaves_the_given_model_alone(method, asked_before, pairs, tiny):
    before = {name: tensor.clone() for name, tensor in tiny[0].state_dict().items()}
    recipe = brief(finetuning_type=method, precompute_ref_log_probs=asked_before, max_steps=2)
    run = train(recipe, pairs, tiny)
    assert losses(run)[0] == pytest.approx(LOG2, abs=1e-5)
    assert losses(run)[1] != pytest.approx(LOG2, abs=1e-5)
    assert all(torch.equal(before[k], v) for k, v in tiny[0].state_dict().items())
    assert not tiny[0]._forward_hooks
    assert run.history[0].get("kl", 0.0) == pytest.approx(0, abs=1e-6)
    assert ("kl" in run.history[1]) != asked_before


@pytest.mark.parametrize("stage", ["dpo", "kto"])
def test_asking_the_reference_before_training_changes_nothing(stage, pairs, labels, tiny):
    rows = pairs if stage == "dpo" else labels
    asked = train(brief(stage=stage, precompute_ref_log_probs=True), rows, tiny, eval_data=rows)
    plain = train(brief(stage=stage), rows, tiny, eval_data=rows)
    for a, b in zip(asked.history, plain.history, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-5)
        assert a["rewards/chosen"] == pytest.approx(b["rewards/chosen"], abs=1e-4)


def test_the_reference_of_lora_is_the_base_without_its_adapter(pairs, tiny):
    recipe = brief()
    reference = reference_for(recipe, tiny[0])
    model = adapt(tiny[0], recipe)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    ids = torch.tensor([ftlab.encode(tiny[1], pairs[0]).chosen.input_ids])
    with torch.no_grad():
        changed = model(ids).logits
        with model.disable_adapter():
            off = model(ids).logits
        explicit = reference(ids).logits
    assert torch.equal(off, explicit) and not torch.allclose(changed, off, atol=1e-2)
    inside = model.get_base_model().model.layers[0].mlp.up_proj.base_layer.weight
    assert inside.data_ptr() == reference.model.layers[0].mlp.up_proj.weight.data_ptr()


def test_an_explicit_reference_model_is_asked(pairs, tiny, tmp_path):
    same = train(brief(ref_model="tiny"), pairs, tiny)
    assert losses(same) == losses(train(brief(), pairs, tiny))


def test_no_reference_is_kept_where_the_loss_has_none(tiny):
    for loss in ("orpo", "simpo"):
        assert reference_for(brief(pref_loss=loss), tiny[0]) is None
    assert reference_for(brief(stage="rm"), tiny[0]) is None
    whole = {"finetuning_type": "full"}
    assert reference_for(brief(precompute_ref_log_probs=True, **whole), tiny[0]) is None
    assert reference_for(brief(**whole), tiny[0]) is tiny[0]


def test_only_the_tokens_of_answers_count(pairs, labels, tiny):
    """What a tool said stands inside an answer of several turns, and is not learned."""
    call = {"type": "function", "function": {"name": "tide", "arguments": {}}}
    answer = [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "high at nine"},
        {"role": "assistant", "content": "At nine."},
    ]
    rows = ftlab.Data([{**pairs[0], "chosen": answer}, pairs[1]])
    dataset, _ = batches.dataset(tiny[1], rows, brief())
    collate = batches.AnswerCollator(tiny[1].pad_token_id, batches.PAIR_SIDES)
    batch = collate([dataset[0], dataset[1]])
    sides = [ftlab.encode(tiny[1], row) for row in rows]
    for i, one in enumerate(
        [sides[0].chosen, sides[1].chosen, sides[0].rejected, sides[1].rejected]
    ):
        n = len(one)
        assert batch["input_ids"][i, :n].tolist() == one.input_ids
        assert batch["attention_mask"][i].sum() == n
        assert batch["completion_mask"][i, :n].tolist() == [x != IGNORED for x in one.labels]
        assert not batch["completion_mask"][i, n:].any()
    trained = tiny[1].decode(batch["input_ids"][0][batch["completion_mask"][0].bool()])
    assert "At nine." in trained and "tide" in trained and "high at" not in trained


def test_kto_compares_with_the_answer_to_another_question(labels, tiny):
    dataset, _ = batches.dataset(tiny[1], labels, brief(stage="kto"))
    ids = dataset["KL_ids"]
    for i, row in enumerate(labels):
        question = ftlab.chat.prompt_ids(tiny[1], row["prompt"])
        assert ids[i][: len(question)] == question
        answer = tiny[1].decode(ids[i][len(question) :], skip_special_tokens=True).strip()
        assert answer == labels[i - 1]["completion"][0]["content"]
    assert dataset["label"][:] == [row["label"] for row in labels]


def test_kto_takes_one_row_at_a_time_as_llama_factory_does(labels, tiny):
    run = train(brief(stage="kto", per_device_train_batch_size=1), labels, tiny)
    assert run.status == "finished"
    whole = train(brief(stage="kto", per_device_train_batch_size=1, max_steps=-1,
                        num_train_epochs=1), labels, tiny)  # fmt: skip
    assert whole.history[-1]["step"] == len(labels)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dpo_label_smoothing": 0.1, "pref_loss": "ipo"}, "for pref_loss sigmoid and robust only"),
        ({"pref_loss": "robust"}, "needs dpo_label_smoothing"),
        ({"pref_loss": "simpo", "ref_model": "tiny"}, "ref_model: pref_loss=simpo works without"),
        ({"pref_loss": "orpo", "precompute_ref_log_probs": True}, "orpo works without a reference"),
        ({"pref_loss": "orpo", "pref_ftx": 0.5}, "pref_ftx: .* has the SFT loss in it"),
        ({"stage": "rm", "ref_model": "tiny"}, "stage rm works without a reference"),
        ({"ref_model_adapters": "out"}, "belongs to ref_model, which is empty"),
        ({"pref_beta": 0}, "nothing is learned"),
        ({"pref_loss": "kto_pair"}, "choose one of sigmoid"),
        ({"packing": True}, "packing: stage dpo"),
        ({"train_on_prompt": True}, "train_on_prompt: stage dpo"),
        ({"finetuning_type": "prompt_tuning"}, "a learned prompt"),
        ({"ld_alpha": 0.5, "dpo_label_smoothing": 0.1}, "not together"),
        ({"pref_bco_weight": 0.5}, "has no BCO"),
    ],
    ids=str,
)
def test_a_recipe_that_cannot_work_is_refused(changes, message):
    with pytest.raises(RecipeError, match=message):
        brief(**changes)


def test_keys_that_a_stage_does_not_read_are_named():
    assert brief(stage="kto", kto_chosen_weight=2, pref_ftx=0.1).notices == []
    [notice] = brief(kto_chosen_weight=2).notices
    assert notice == "kto_chosen_weight: no effect in stage dpo."
    [notice] = brief(simpo_gamma=1).notices
    assert notice == "simpo_gamma: no effect with pref_loss sigmoid."
    assert ftlab.Recipe.from_yaml(brief().to_yaml()).notices == []


@pytest.mark.parametrize(
    ("stage", "name", "message"),
    [
        ("kto", "polite_pairs", "stage: kto .* preference pairs. Use stage: rm or dpo"),
        ("dpo", "polite_labels", "stage: dpo .* answers with a label.* Use stage: kto"),
        ("dpo", "world_qa", "stage: dpo .* conversations. Use stage: sft"),
        ("rm", "polite_labels", "stage: rm .* Use stage: kto"),
        ("sft", "polite_pairs", "stage: sft .* preference pairs"),
    ],
)
def test_rows_of_another_kind_are_refused_before_anything_loads(stage, name, message, monkeypatch):
    module = sys.modules["ftlab.train"]  # the name is taken by the function
    monkeypatch.setattr(module, "load_for", lambda *_: pytest.fail("a model was loaded"))
    with pytest.raises(RecipeError, match=message):
        ftlab.train(brief(stage=stage, dataset=name), save=False)


def test_quantized_bases_take_part(pairs, tiny):
    pytest.importorskip("bitsandbytes")
    for stage in ("dpo", "rm"):
        recipe = brief(stage=stage, quantization_bit=4, max_steps=2)
        run = ftlab.train(recipe, pairs, save=False, quiet=True)
        assert run.status == "finished" and len(set(losses(run))) == 2
        trained = [p for p in run.model.parameters() if p.requires_grad]
        assert trained and all(p.dtype == torch.float32 for p in trained)


def test_accuracy_counts_the_pairs_that_a_model_ranks_right(pairs, tiny):
    run = train(brief(max_steps=8, finetuning_type="full"), pairs, tiny)
    scores = preference_accuracy(run.model, tiny[1], pairs, reference=tiny[0])
    assert scores.value > preference_accuracy(tiny[0], tiny[1], pairs, reference=tiny[0]).value == 0
    row = scores.rows[0]
    pair = ftlab.encode(tiny[1], pairs[0])
    ours, theirs = (rewards(m, [pair.chosen]) for m in (run.model, tiny[0]))
    expected = (ours[0] - theirs[0]) * pair.chosen.trained
    assert row["chosen_reward"] == pytest.approx(expected, abs=1e-3)
    with pytest.raises(DataError, match="no preference pairs"):
        preference_accuracy(tiny[0], tiny[1], ftlab.read("world_qa").take(2))


def test_freezing_trains_the_head_of_a_reward_model_too(tiny):
    model = adapt(tiny[0], brief(stage="rm", finetuning_type="freeze"))
    assert model.score.weight.requires_grad
    assert not model.model.layers[0].mlp.up_proj.weight.requires_grad
    assert trainable_parameters(model)[0] < trainable_parameters(model)[1]
