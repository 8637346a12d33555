"""The chat panel: one question, the base model's answer and the tuned one's side by side.

A view only: `ftlab.generate.stream` answers, and `ftlab.generate` gives the same text at once.
Taught in notebooks/11_hyperparameter_lab.ipynb.
"""

from __future__ import annotations

import sys
import time
import warnings
from dataclasses import dataclass, field
from html import escape
from threading import Event
from typing import Any

import ipywidgets as w

import ftlab
from ftlab.generate import BASE, stream
from ftlab.panels.data import Still
from ftlab.panels.style import CSS
from ftlab.panels.training import FRAME_SECONDS
from ftlab.panels.worker import Worker
from ftlab.streaming import split_thoughts

TUNED = "tuned"
BUTTONS = {
    "Send": "ask this question (Enter does the same)",
    "Stop": "end the answer that is being written",
    "Clear": "begin a new conversation",
}
_CSS = """<style>
.ftlab-chat.ftlab-chat { flex-direction: column-reverse; max-height: 430px; overflow-y: auto;
  flex-shrink: 0; justify-content: flex-start; }
.ftlab-chat > * { flex-shrink: 0; }
.ftlab-turn { margin: 0 8px 8px 0; font-size: 13px; line-height: 1.45; }
.ftlab-turn > b { display: block; font-weight: 600; padding: 4px 8px; margin-bottom: 4px;
  border-radius: 4px; background: var(--jp-layout-color2, #eef1f4); }
.ftlab-turn > b, .ftlab-said { white-space: pre-wrap; overflow-wrap: anywhere; }
.ftlab-answer-row { display: flex; gap: 14px; }
.ftlab-answer-row > div { flex: 1 1 0; min-width: 0; padding: 0 8px;
  border-left: 3px solid var(--jp-border-color2, #dfe4e9); }
.ftlab-answer-row > div.ftlab-tuned { border-left-color: #0072b2; }
.ftlab-turn details { font-size: 12px; color: var(--jp-ui-font-color2, #5b6773); }
.ftlab-turn summary { cursor: pointer; }
.ftlab-control.ftlab-control > input { order: 1; flex: 1 0 100%; height: 24px; margin: 1px 0 3px; }
</style>"""


@dataclass
class Reply:
    """One model's answer in a turn, as far as it is written."""

    name: str
    thoughts: str = ""
    text: str = ""
    note: str = ""


@dataclass
class Turn:
    """A question and its answers, left to right."""

    question: str
    replies: list[Reply] = field(default_factory=list)


class ChatPanel:
    """Talk to a model and to its base at once, around `ftlab.generate.stream`.

    `model`: a PEFT model or an `AdapterSet` (its base answers on the left, the adapter that you
    choose on the right), or a plain model; then `base` may be the model it was tuned from.
    `options` are those of `ftlab.generate` and where the controls start; temperature 0 is greedy.
    Each side keeps its own conversation. `foreground=True` answers inside the callback, as on
    Google Colab. `wait()` re-raises what answering raised.

    Plain-function twin: `ftlab.generate(model, tokenizer, [messages], adapter="base")`.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        base: Any = None,
        system: str = "",
        foreground: bool | None = None,
        **options: Any,
    ) -> None:
        if hasattr(model, "cards"):  # an AdapterSet
            model = model.model
        self.model, self.base, self.tokenizer = model, base, tokenizer
        self.names = list(getattr(model, "peft_config", {}))
        self.options = {"max_new_tokens": 128, "temperature": 0.0, "top_p": 1.0, **options}
        self.turns: list[Turn] = []
        self._questions: list[str] = []
        self._drawn = 0.0
        in_colab = "google.colab" in sys.modules
        self._worker = Worker(
            self._answer, foreground=in_colab if foreground is None else foreground
        )
        self._worker.take_over()
        self._build(system)
        self._say("Ready. Type a question and press Enter.")

    def ask(self, question: str) -> ChatPanel:
        """Ask from code, as a hand would; an answer that is being written ends there."""
        if question.strip():
            self._questions.append(question.strip())
            self._worker.request()
        return self

    def send(self) -> None:
        """Ask what stands in the question box, and empty it."""
        question, self.question.value = self.question.value, ""
        self.ask(question)

    def set(self, **values: Any) -> ChatPanel:
        """Move controls from code: `panel.set(temperature=0.7, adapter="style")`."""
        for name, value in values.items():
            self.controls[name].value = value
        return self

    def stop(self) -> None:
        """End the answer at its next token; what is written so far stays."""
        self._worker.stop()

    def clear(self) -> None:
        """Begin a new conversation."""
        self.stop()
        self._questions, self.turns = [], []
        self._draw()
        self._say("A new conversation.")

    def wait(self, timeout: float | None = None) -> ChatPanel:
        """Wait for the answers; raise what they raised, or TimeoutError after `timeout` s."""
        self._worker.wait(timeout)
        return self

    def still(self) -> Still:
        """The conversation as it stands, for readers without a kernel."""
        words = [
            line
            for turn in self.turns
            for line in (f"you> {turn.question}", *(f"{r.name}> {r.text}" for r in turn.replies))
        ]
        turns = "".join(map(_turn, self.turns))
        html = f"<div class='ftlab-panel'>{CSS}{_CSS}{turns}</div>"
        return Still(html, "\n".join(words) or "nothing asked yet")

    def close(self) -> None:
        """Stop answering and take the panel off the page."""
        self.stop()
        self.widget.close()

    def _ipython_display_(self) -> None:
        from IPython.display import display

        view = {"version_major": 2, "version_minor": 0, "model_id": self.widget.model_id}
        words = "Chat panel: the controls appear when you run this cell."
        display({"application/vnd.jupyter.widget-view+json": view, "text/plain": words}, raw=True)

    # Answering. The worker calls _answer in its thread.

    def _answer(self, stop: Event) -> None:
        try:
            while self._questions and not stop.is_set():
                turn = Turn(self._questions.pop(0))
                earlier = list(self.turns)
                self.turns.append(turn)
                for side, (name, model, adapter) in enumerate(self._sides()):
                    turn.replies.append(Reply(name))
                    if not stop.is_set():
                        self._write(turn, side, earlier, stop, model, adapter)
                self._say("Stopped." if stop.is_set() else "Ready.")
        except KeyboardInterrupt:
            self._say("Interrupted.")
        except ftlab.Error as error:
            self._say(str(error), bad=True)
        except Exception as error:
            self._say(f"{type(error).__name__}: {error}", bad=True)
            raise
        finally:
            self._draw()

    def _sides(self) -> list[tuple[str, Any, str | None]]:
        """Name, model and adapter of each answer, left to right."""
        if self.names:
            chosen = self.controls["adapter"].value
            return [(BASE, self.model, BASE), (chosen, self.model, chosen)]
        left = [] if self.base is None else [(BASE, self.base, None)]
        return [*left, (TUNED if left else "model", self.model, None)]

    def _write(
        self, turn: Turn, side: int, earlier: list[Turn], stop: Event, model: Any, adapter: Any
    ) -> None:
        """Write one answer while it comes."""
        reply, written = turn.replies[side], ""
        self._say(f"{reply.name} answers …")
        messages = self._messages(turn, side, earlier)
        options = {**self._options(), "adapter": adapter}
        pieces = stream(model, self.tokenizer, messages, **options)
        try:
            for piece in pieces:
                written += piece
                shown = split_thoughts(written, opened=pieces.opened, whole=False)
                reply.thoughts, reply.text = shown
                if time.perf_counter() - self._drawn >= FRAME_SECONDS:
                    self._draw()
                if stop.is_set():
                    break
        finally:
            pieces.close()
            reply.thoughts, reply.text = split_thoughts(written, opened=pieces.opened)
            nothing = "" if reply.text else "(an empty answer)"
            ends = {"stop": nothing, "length": "(more was to come: max_new_tokens)"}
            reply.note = ends.get(pieces.finish_reason or "", "(ended)")
            self._draw()

    def _messages(self, turn: Turn, side: int, earlier: list[Turn]) -> list[dict[str, Any]]:
        """The conversation of one side, up to this question."""
        system = self.controls["system prompt"].value.strip()
        messages = [{"role": "system", "content": system}] if system else []
        for past in earlier:
            said = past.replies[side].text if side < len(past.replies) else ""
            if said:
                messages += [{"role": "user", "content": past.question},
                             {"role": "assistant", "content": said}]  # fmt: skip
        return [*messages, {"role": "user", "content": turn.question}]

    def _options(self) -> dict[str, Any]:
        """The controls as options of `ftlab.generate`."""
        values = {name: self.controls[name].value for name in ("temperature", "top_p", "seed")}
        stop = self.controls["stop"].value.replace("\\n", "\n").split("|")
        return {
            **self.options, **values, "do_sample": values["temperature"] > 0,
            "max_new_tokens": self.controls["max_new_tokens"].value,
            "stop": [text for text in stop if text],
        }  # fmt: skip

    # What is on the page.

    def _build(self, system: str) -> None:
        options, look = self.options, {"style": {"description_width": "auto"}}
        slider = {**look, "layout": w.Layout(width="auto"), "continuous_update": False}
        box = {**look, "layout": w.Layout(width="auto")}
        most = max(512, options["max_new_tokens"])
        stop = "|".join(options.get("stop", ())).replace("\n", "\\n")
        two = {"step": 0.05, "readout_format": ".2f"}
        self.controls: dict[str, Any] = {
            "adapter": w.Dropdown(options=self.names or ["none"], **box),
            "temperature": w.FloatSlider(
                value=options["temperature"], min=0, max=2, **two, **slider
            ),
            "top_p": w.FloatSlider(value=options["top_p"], min=0.05, max=1, **two, **slider),
            "max_new_tokens": w.IntSlider(
                value=options["max_new_tokens"], min=1, max=most, **slider
            ),
            "seed": w.IntText(value=options.get("seed") or 0, **box),
            "stop": w.Text(value=stop, placeholder="texts, with | between", **box),
            "system prompt": w.Text(value=system, placeholder="none", **box),
        }
        for name, control in self.controls.items():
            control.description = name
            control.add_class("ftlab-control")
        shown = [one for name, one in self.controls.items() if name != "adapter" or self.names]
        left = w.VBox(shown, layout=w.Layout(flex="0 0 230px", min_width="0"))
        left.add_class("ftlab-controls")
        self._past, self._now, self._status = w.HTML(), w.HTML(), w.HTML()
        log = w.VBox([w.VBox([self._past, self._now])])  # one child, so reversed it sticks below
        log.add_class("ftlab-chat")
        right = w.VBox([log, self._bar(), self._status])
        right.layout = w.Layout(flex="1 1 0", min_width="0")
        body = w.HBox([left, right], layout=w.Layout(width="100%"))
        self.widget = w.VBox([w.HTML(CSS + _CSS), body], layout=w.Layout(max_width="980px"))
        self.widget.add_class("ftlab-panel")

    def _bar(self) -> Any:
        """The question box and the buttons."""
        wide = w.Layout(flex="1 1 auto", width="auto", min_width="0", margin="0 6px 4px 0")
        self.question = w.Text(placeholder="your question", layout=wide)
        with warnings.catch_warnings():
            # The other way, a value that changes, also fires when the box loses the focus.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.question.on_submit(lambda _: self.send())
        self.buttons = {}
        for (name, tip), action in zip(
            BUTTONS.items(), (self.send, self.stop, self.clear), strict=True
        ):
            button = w.Button(description=name, tooltip=tip, layout=w.Layout(width="auto"))
            button.on_click(lambda _, action=action: action())
            button.add_class("ftlab-button")
            self.buttons[name] = button
        self.buttons["Send"].button_style = "primary"
        return w.HBox([self.question, *self.buttons.values()])

    def _say(self, words: str, bad: bool = False) -> None:
        kind = "ftlab-bad" if bad else "ftlab-status"
        self._status.value = f"<div class='{kind}' role='status'>{escape(words)}</div>"

    def _draw(self) -> None:
        """Earlier turns stay as they are, so that opened thoughts stay open."""
        past = "".join(map(_turn, self.turns[:-1]))
        if past != self._past.value:
            self._past.value = past
        self._now.value = _turn(self.turns[-1]) if self.turns else ""
        self._drawn = time.perf_counter()


def _turn(turn: Turn) -> str:
    """A question and its answers as HTML; all text is escaped."""
    replies = "".join(map(_reply, turn.replies))
    return (
        f"<div class='ftlab-turn'><b dir='auto'>{escape(turn.question)}</b>"
        f"<div class='ftlab-answer-row'>{replies}</div></div>"
    )


def _reply(reply: Reply) -> str:
    kind = "ftlab-base" if reply.name == BASE else "ftlab-tuned"
    thoughts = (
        f"<details><summary>thoughts</summary><div class='ftlab-said' dir='auto'>"
        f"{escape(reply.thoughts)}</div></details>"
        if reply.thoughts
        else ""
    )
    return (
        f"<div class='{kind}'><span class='ftlab-help'>{escape(reply.name)} {escape(reply.note)}"
        f"</span>{thoughts}<div class='ftlab-said' dir='auto'>{escape(reply.text)}</div></div>"
    )
