"""Rebuild the small world: `python -m ftlab.world [pretrain|scores]` (see README.md here)."""

from __future__ import annotations

import argparse
from pathlib import Path

DATA = Path(__file__).resolve().parents[2] / "data"


def main() -> None:
    """Without a command: text, datasets and tokenizer, byte for byte, in seconds; no weights."""
    parser = argparse.ArgumentParser(prog="python -m ftlab.world", description=main.__doc__)
    parser.add_argument("command", nargs="?", choices=["pretrain", "scores"])
    parser.add_argument("--out", type=Path, help="folder to write to (default: data/, data/tiny/)")
    parser.add_argument("--steps", type=int, help="pre-training steps")
    parser.add_argument("--seed", type=int, default=0, help="seed of the pre-training")
    args = parser.parse_args()
    if args.command is None:
        from ftlab.world.datasets import write_datasets
        from ftlab.world.tokenizer import write_tokenizer

        out = args.out or DATA
        write_datasets(out)
        write_tokenizer(out / "tiny")
    elif args.command == "pretrain":
        from ftlab.world.pretrain import STEPS, pretrain

        pretrain(args.out or DATA / "tiny", DATA / "tiny", args.steps or STEPS, args.seed)
    else:
        from ftlab.world.scores import write_scores

        write_scores(args.out or DATA / "tiny")


if __name__ == "__main__":
    main()
