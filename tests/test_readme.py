"""What the README says about bad rows, and about curves and answers, is what ftlab does."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import ftlab

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = README.partition("<!-- bad rows: begin -->")[2].partition("<!-- bad rows: end -->")[0]
ROWS = re.findall(r"^\| `(.+?)` \| `(.+?)` \|$", BLOCK, re.MULTILINE)
ALPACA = {"instruction": "Hi", "output": "Yes"}
OPENAI = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]}


def test_the_readme_has_its_table() -> None:
    assert len(ROWS) == BLOCK.count("\n") - 3 >= 15


@pytest.mark.parametrize(("row", "message"), ROWS, ids=range(len(ROWS)))
def test_a_bad_row_gets_the_message_of_the_readme(
    row: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = OPENAI if '"messages"' in row else ALPACA
    if '"kto_tag"' in row:
        good = good | {"kto_tag": True}
    lines = [json.dumps(good)] * 2 + [row] + [json.dumps(good)] * 2
    monkeypatch.chdir(tmp_path)
    Path("bad.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(ftlab.DataError) as caught:
        ftlab.read("bad.jsonl")
    assert str(caught.value).startswith(f"bad.jsonl:3{message}")
    assert "Of 5 rows 1 cannot be used" in str(caught.value)


def test_dpo_alone_ranks_pairs_and_leaves_answers_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "with `pref_ftx=0 learning_rate=3e-4` the DPO run above" in README
    monkeypatch.chdir(tmp_path)
    sft, dpo = (
        ftlab.Recipe.from_yaml(ROOT / "examples" / f"{name}.yaml").replace(eval_strategy="no")
        for name in ("lora_sft", "dpo_lora")
    )
    first = ftlab.train(sft.replace(output_dir="runs/first"), quiet=True)
    run = ftlab.train(dpo.replace(pref_ftx=0.0, learning_rate=3e-4), quiet=True, save=False)
    pairs = ftlab.read("polite_pairs_test").take(60)
    ranked = ftlab.preference_accuracy(run.model, run.tokenizer, pairs, reference=first.model)
    assert ranked.value > 0.95
    asked = [row["prompt"] for row in pairs]
    before, after = (
        ftlab.generate(one.model, one.tokenizer, asked, max_new_tokens=32) for one in (first, run)
    )
    assert sum(map(str.__eq__, before, after)) / len(asked) > 0.9
