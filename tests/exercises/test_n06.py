"""Typical mistakes in the exercises of notebook 06: (answer, outcome, part of the message).

`tests/test_exercises.py` collects `MISTAKES` from every file here and runs them. An answer is the
learner's code; it defines the exercise's name. `EXTRA`, if given, maps a name to a function that
makes the further arguments of its check.
"""

MISTAKES = {
    "bits_per_byte": [
        (
            "def bits_per_byte(loss, tokens, bytes): return loss * tokens / bytes",
            "wrong",
            "two equally likely tokens of one byte each costs one bit a byte",
        ),
        (
            "def bits_per_byte(loss, tokens, bytes): return loss * bytes / tokens / 0.693147",
            "wrong",
            "twice the bytes is half",
        ),
        (
            "def bits_per_byte(loss, tokens, bytes): return loss / 0.693147",
            "wrong",
            "twice the bytes is half",
        ),
        (
            "def bits_per_byte(loss, tokens, bytes): return 2**loss * tokens / bytes",
            "wrong",
            "a loss of zero costs no bits",
        ),
        (
            "def bits_per_byte(loss, tokens, bytes): loss * tokens / bytes",
            "wrong",
            "is a `return` missing?",
        ),
        (
            "def bits_per_byte(loss, tokens): return loss / tokens",
            "error",
            "bits_per_byte(0, 10, 40)` raised TypeError",
        ),
    ],
    "loss_by_position": [
        (  # no shift: judges each token's logits by the token itself
            """
import torch.nn.functional as F
def loss_by_position(logits, ids):
    return F.cross_entropy(logits.transpose(1, 2), ids, reduction="none").mean(0)
""",
            "wrong",
            "one loss fewer than tokens",
        ),
        (  # shifted the wrong way round
            """
import torch.nn.functional as F
def loss_by_position(logits, ids):
    return F.cross_entropy(logits[:, 1:].transpose(1, 2), ids[:, :-1], reduction="none").mean(0)
""",
            "wrong",
            "all weight on the token that comes next",
        ),
        (  # cut, but not shifted
            """
import torch.nn.functional as F
def loss_by_position(logits, ids):
    return F.cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, :-1], reduction="none").mean(0)
""",
            "wrong",
            "all weight on the token that comes next",
        ),
        (  # one number for everything
            """
import torch.nn.functional as F
def loss_by_position(logits, ids):
    return F.cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:])
""",
            "wrong",
            "one loss for each position",
        ),
        (  # the mean over positions instead of rows
            """
import torch.nn.functional as F
def loss_by_position(logits, ids):
    return F.cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none").mean(1)
""",
            "wrong",
            "one loss fewer than tokens",
        ),
        (  # the sum over the rows
            """
import torch.nn.functional as F
def loss_by_position(logits, ids):
    return F.cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none").sum(0)
""",
            "wrong",
            "ln 11 at each position",
        ),
        (  # the vocabulary is not in the second dimension
            """
import torch.nn.functional as F
def loss_by_position(logits, ids):
    return F.cross_entropy(logits[:, :-1], ids[:, 1:], reduction="none").mean(0)
""",
            "error",
            "raised RuntimeError",
        ),
        (  # log-probabilities without the minus
            """
def loss_by_position(logits, ids):
    return logits[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0].mean(0)
""",
            "wrong",
            "no negative losses",
        ),
    ],
    "count_parameters": [],
}

_FORMULA = """
def count_parameters(c):
    h, d, n, kv = c["hidden_size"], c["head_dim"], c["num_attention_heads"], {kv}
    block = 2 * h * n * d + 2 * h * kv * d + {norms} + {mlp} * h * c["intermediate_size"]
    tables = {tables}
    return tables * c["vocab_size"] * h + c["num_hidden_layers"] * block + {last}
"""
_RIGHT = {
    "kv": 'c["num_key_value_heads"]',
    "norms": "2 * d + 2 * h",
    "mlp": "3",
    "tables": '1 if c["tie_word_embeddings"] else 2',
    "last": "h",
}
for _fault, _message in (
    ({"kv": 'c["num_attention_heads"]'}, "fewer key/value heads shrink two matrices"),
    ({"norms": "2 * h"}, "head_dim counts in all four projections and in two norms"),
    ({"norms": "2 * d"}, "one more layer adds one block with all its norms"),
    ({"mlp": "2"}, "a wider MLP widens three matrices"),
    ({"tables": "2"}, "one more token adds one row"),
    ({"tables": "1"}, "there is a second vocabulary matrix"),
    ({"last": "0"}, "the last norm counts as well"),
):
    MISTAKES["count_parameters"].append((_FORMULA.format(**_RIGHT | _fault), "wrong", _message))
