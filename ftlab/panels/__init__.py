"""Panels: what a learner touches. Views on functions of ftlab, with no training logic of their own.

Every panel has a plain-function twin that gives the same figure:
`ftlab.panel(recipe, data)` and `run = ftlab.train(recipe, data); run.plot()`.
`ftlab.panels.chat_panel(model, tokenizer)` and `ftlab.generate(model, tokenizer, [messages])`.
`ftlab.panels.data_panel(name)` and `ftlab.diagnose(name)`, `ftlab.encode(tokenizer, row)`.
`ftlab.panels.estimate_panel(recipe)` and `ftlab.estimate(recipe)`,
`ftlab.calculator.budget.budget(estimate)`.
"""

from ftlab.panels.chat import ChatPanel
from ftlab.panels.data import DataPanel
from ftlab.panels.estimate import EstimatePanel
from ftlab.panels.training import TrainingPanel

panel = TrainingPanel
chat_panel = ChatPanel
data_panel = DataPanel
estimate_panel = EstimatePanel

__all__ = [
    "ChatPanel", "DataPanel", "EstimatePanel", "TrainingPanel",
    "chat_panel", "data_panel", "estimate_panel", "panel",
]  # fmt: skip
