"""``ftlab chat``: a conversation in the terminal, word by word.

/clear starts over, /system TEXT sets the system prompt, /base switches the adapter off and on,
/exit or Ctrl-D ends. Ctrl-C ends the answer that is being written, not the program.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from typing import Any

from ftlab.chat import question
from ftlab.errors import DataError
from ftlab.generate import BASE, stream
from ftlab.streaming import split_thoughts

HELP = "Type your message; /clear starts over, /system TEXT, {base}/exit or Ctrl-D ends."
_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"


class Conversation:
    """One chat with a model; ``options`` are those of ``ftlab.generate``."""

    def __init__(
        self, model: Any, tokenizer: Any, system: str | None, options: dict[str, Any]
    ) -> None:
        self.model, self.tokenizer, self.system, self.options = model, tokenizer, system, options
        self.has_adapter = hasattr(model, "peft_config")
        self.base = False
        self.clear()

    def clear(self) -> None:
        """Begin again, with the system prompt if there is one."""
        self.messages: list[dict[str, Any]] = question("", self.system)[:-1]

    def run(self) -> None:
        """Read, answer, until the input ends."""
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 (arrow keys and history in input())
        for output in (sys.stdout, sys.stderr):
            if hasattr(output, "reconfigure"):  # a terminal that cannot show a character
                output.reconfigure(errors="replace")
        print(HELP.format(base="/base switches the adapter off and on, " * self.has_adapter))
        while True:
            try:
                line = input("you> ")
            except EOFError:
                print()
                return
            except KeyboardInterrupt:
                print("\n(/exit or Ctrl-D ends)")
                continue
            # Bytes that are no UTF-8 arrive as lone surrogates, which no tokenizer takes.
            text = line.encode(errors="surrogateescape").decode(errors="replace").strip()
            if text == "/exit":
                return
            if text and not self.command(*text.split(None, 1)):
                self.answer(text)

    def command(self, word: str, rest: str = "") -> bool:
        """Do what a line that begins with a slash says; False for a message."""
        if word == "/clear" and not rest:
            self.clear()
            print("(a new conversation)")
        elif word == "/system":
            self.system = rest or None
            self.clear()
            print("(a new conversation, " + ("with that system prompt)" if rest else "without)"))
        elif word == "/base" and not rest:
            self.base = self.has_adapter and not self.base
            print("(the base answers)" if self.base else "(the adapter answers)"
                  if self.has_adapter else "(there is no adapter: this is the base)")  # fmt: skip
        else:
            return False
        return True

    def answer(self, text: str) -> None:
        """Print the answer while it comes, and keep both turns."""
        turn = {"role": "user", "content": text}
        adapter = BASE if self.base else None
        try:
            pieces = stream(
                self.model, self.tokenizer, [*self.messages, turn], adapter=adapter, **self.options
            )
        except DataError as error:
            print(f"({error} /clear does.)")
            return
        said, written = ("", ""), ""
        print("base> " if self.base else "model> ", end="", flush=True)
        try:
            for piece in pieces:
                written += piece
                said = self._show(said, split_thoughts(written, opened=pieces.opened, whole=False))
        except KeyboardInterrupt:
            pieces.close()
            print(" (ended)", end="")
        said = self._show(said, split_thoughts(written, opened=pieces.opened))
        print(" (more was to come: max_new_tokens)" if pieces.finish_reason == "length" else "")
        self.messages += [turn, {"role": "assistant", "content": said[1]}]

    def _show(self, before: Sequence[str], now: tuple[str, str]) -> tuple[str, str]:
        """Print what is new of thoughts and answer; thoughts are dim."""
        thoughts, answer = (new[len(old) :] for old, new in zip(before, now, strict=True))
        dim, plain = (_DIM, _PLAIN) if sys.stdout.isatty() else ("", "")
        if thoughts:
            print(f"{dim}{'' if before[0] else '(thinks) '}{thoughts}{plain}", end="", flush=True)
        if answer:
            gap = "\n" if now[0] and not before[1] else ""
            print(gap + answer, end="", flush=True)
        return now
