"""Panels: what a learner touches. Views on functions of ftlab, with no training logic of their own.

Every panel has a plain-function twin that gives the same figure:
`ftlab.panel(recipe, data)` and `run = ftlab.train(recipe, data); run.plot()`.
`ftlab.panels.data_panel(name)` and `ftlab.diagnose(name)`, `ftlab.encode(tokenizer, row)`.
"""

from ftlab.panels.data import DataPanel
from ftlab.panels.training import TrainingPanel

panel = TrainingPanel
data_panel = DataPanel

__all__ = ["DataPanel", "TrainingPanel", "data_panel", "panel"]
