"""What a model thinks of answers: a reward model's scores, a language model's implicit rewards.

Taught in notebooks/12_reward_model_and_ppo.ipynb and notebooks/13_dpo.ipynb.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from ftlab.chat import encode
from ftlab.errors import DataError
from ftlab.evaluate import Scores
from ftlab.generate import evaluating
from ftlab.models import gives_scores
from ftlab.tokens import IGNORED, Encoded

Row = dict[str, Any]


def preference_accuracy(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[Row],
    *,
    reference: Any = None,
    batch_size: int = 32,
) -> Scores:
    """Share of pairs whose chosen answer gets the higher ``rewards``, with its 95 % interval.

    Equal rewards count as wrong: so a model compared with itself has accuracy 0. Raises DataError
    for rows that are no pairs.
    """
    if any("rejected" not in row for row in pairs):
        raise DataError("preference_accuracy: these rows are no preference pairs.")
    encoded = [encode(tokenizer, row, with_tokens=False) for row in pairs]
    options = {"reference": reference, "batch_size": batch_size, "pad_id": tokenizer.pad_token_id}
    chosen = rewards(model, [pair.chosen for pair in encoded], **options)
    rejected = rewards(model, [pair.rejected for pair in encoded], **options)
    rows = [
        {
            "prompt": row["prompt"][-1]["content"], "reference": row["chosen"][-1]["content"],
            "prediction": row["rejected"][-1]["content"], "score": float(a > b),
            "chosen_reward": a, "rejected_reward": b,
            "source": row.get("source", f"row {number}"), "extra": row.get("extra", {}),
        }
        for number, (row, a, b) in enumerate(zip(pairs, chosen, rejected, strict=True), 1)
    ]  # fmt: skip
    return Scores("preference_accuracy", rows)


def rewards(
    model: Any,
    examples: Sequence[Encoded],
    *,
    reference: Any = None,
    pad_id: int = 0,
    batch_size: int = 32,
) -> list[float]:
    """One number for each encoded conversation, in nats for a language model.

    A reward model: its score. A language model with ``reference``: log pi(answer) - log
    reference(answer), DPO's implicit reward divided by beta (Rafailov et al. 2023, section 4).
    Without one: the mean log-probability of the answer's tokens, as ORPO and SimPO compare them.
    """
    if gives_scores(model.config):
        return _in_batches(model, examples, pad_id, batch_size, scores=True)
    ours = _in_batches(model, examples, pad_id, batch_size)
    if reference is None:
        return [total / example.trained for total, example in zip(ours, examples, strict=True)]
    theirs = _in_batches(reference, examples, pad_id, batch_size)
    return [a - b for a, b in zip(ours, theirs, strict=True)]


@torch.no_grad()
def _in_batches(
    model: Any, examples: Sequence[Encoded], pad_id: int, size: int, scores: bool = False
) -> list[float]:
    """The score, or the summed log-probability of the answer, of each example."""
    order = sorted(range(len(examples)), key=lambda i: len(examples[i]))  # less padding
    found = [0.0] * len(examples)
    with evaluating(model):
        for start in range(0, len(order), size):
            places = order[start : start + size]
            ids = [torch.tensor(examples[i].input_ids) for i in places]
            labels = [torch.tensor(examples[i].labels) for i in places]
            mask = pad_sequence([torch.ones_like(one) for one in ids], True, 0).to(model.device)
            batch = pad_sequence(ids, True, pad_id).to(model.device)
            logits = model(input_ids=batch, attention_mask=mask, use_cache=False).logits.float()
            if scores:
                values = logits[:, 0]
            else:
                wanted = pad_sequence(labels, True, IGNORED).to(model.device)[:, 1:]
                logps = logits[:, :-1].log_softmax(-1)
                logps = logps.gather(-1, wanted.clamp(min=0).unsqueeze(-1)).squeeze(-1)
                values = (logps * (wanted != IGNORED)).sum(1)
            for place, value in zip(places, values.tolist(), strict=True):
                found[place] = value
    return found
