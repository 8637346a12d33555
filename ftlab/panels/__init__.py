"""Panels: what a learner touches. Views on functions of ftlab, with no training logic of their own.

Every panel has a plain-function twin that gives the same figure:
`ftlab.panel(recipe, data)` and `run = ftlab.train(recipe, data); run.plot()`.
"""

from ftlab.panels.training import TrainingPanel

panel = TrainingPanel

__all__ = ["TrainingPanel", "panel"]
