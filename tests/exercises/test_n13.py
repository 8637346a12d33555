"""Typical mistakes in the exercises of notebook 13 (see test_n06.py for the form)."""

_RANKED = """
def ranked_right(model, reference):
    wins = 0
    for (chosen, rejected), (old_chosen, old_rejected) in zip(model, reference):
        wins += {better}
    return {result}
"""
_GAINS = {"better": "chosen - old_chosen > rejected - old_rejected", "result": "wins / len(model)"}

_SMOOTHED = """
import torch
import torch.nn.functional as F
def smoothed_dpo(chosen, rejected, beta, smoothing):
    margin = {margin}
    right, wrong = -F.logsigmoid(margin), -F.logsigmoid(-margin)
    return {loss}
"""
_LOSS = {
    "margin": "beta * (chosen - rejected)",
    "loss": "((1 - smoothing) * right + smoothing * wrong).mean()",
}

_ALARM = """
def chosen_alarm(history, beta, nats, window=3):
    for end in range({start}, len(history) + 1):
        last = [record["rewards/chosen"]{unit} for record in history[max(end - window, 0) : end]]
        if {low}:
            return {step}
    return 0
"""
_TREND = {
    "start": "window", "unit": " / beta", "low": "sum(last) / window < -nats",
    "step": 'history[end - 1]["step"]',
}  # fmt: skip


def _ranked(**fault):
    return _RANKED.format(**_GAINS | fault)


def _smoothed(**fault):
    return _SMOOTHED.format(**_LOSS | fault)


def _alarm(**fault):
    return _ALARM.format(**_TREND | fault)


MISTAKES = {
    "ranked_right": [
        (  # the likelier answer instead of the one that gained
            _ranked(better="chosen > rejected"),
            "wrong",
            "what counts is the gain over the reference",
        ),
        (  # asks that the chosen answer itself gains
            _ranked(better="chosen >= old_chosen and rejected < old_rejected"),
            "wrong",
            "what counts is the gain over the reference",
        ),
        (
            _ranked(
                better="chosen - old_chosen >= 0 and chosen - old_chosen > rejected - old_rejected"
            ),
            "wrong",
            "both may fall",
        ),
        (
            _ranked(better="chosen - old_chosen >= rejected - old_rejected"),
            "wrong",
            "equal rewards are not ranked right",
        ),
        (_ranked(result="wins"), "wrong", "a share of all pairs"),
        (_ranked(better="rejected - old_rejected > chosen - old_chosen"), "wrong", "ranked right"),
    ],
    "smoothed_dpo": [
        (_smoothed(margin="rejected - chosen"), "wrong", "the chosen answer ahead"),
        (_smoothed(margin="chosen - rejected"), "wrong", "beta multiplies the margin"),
        (
            _smoothed(loss="((1 - smoothing) * right + smoothing * wrong).sum()"),
            "wrong",
            "the mean over pairs",
        ),
        (_smoothed(loss="right.mean()"), "wrong", "a quarter of the labels is wrong"),
        (
            _smoothed(loss="(smoothing * right + (1 - smoothing) * wrong).mean()"),
            "wrong",
            "the chosen answer ahead",
        ),
        (  # not stable: log of zero
            _smoothed(
                loss="-((1 - smoothing) * torch.sigmoid(margin).log()"
                " + smoothing * torch.sigmoid(-margin).log()).mean()"
            ),
            "wrong",
            "a large, finite loss",
        ),
        (
            _smoothed(loss="(1 - smoothing) * right + smoothing * wrong"),
            "wrong",
            "one number for the batch",
        ),
    ],
    "chosen_alarm": [
        (_alarm(unit=""), "wrong", "rewards are in units of beta"),
        (_alarm(step="end"), "wrong", "the `step` of the first record"),
        (_alarm(low="last[-1] < -nats"), "wrong", "the mean of the last `window` records counts"),
        (_alarm(low="abs(sum(last) / window) > nats"), "wrong", "that gain ring no alarm"),
        (
            _alarm(start="1"),
            "wrong",
            "fewer records than the window",
        ),
        (  # a sum is not a mean
            _alarm(low="sum(last) < -nats"),
            "wrong",
            "the mean of the last `window` records counts",
        ),
    ],
}
