"""What a run needs before it starts: bytes by component, seconds a step, on which cards it fits.

``prediction`` is the call, ``shapes`` finds a model's configuration, ``rehearsal`` and ``step``
take one training step without contents while ``ledger`` writes down what it holds and computes,
``speed`` and ``cards`` know devices, ``advice`` tries what would make a run fit, ``budget`` draws.
Taught in notebooks/17_speed_and_memory.ipynb.
"""

from ftlab.calculator.prediction import Estimate, Fit, estimate
from ftlab.calculator.shapes import read_shapes

__all__ = ["Estimate", "Fit", "estimate", "read_shapes"]
