"""What is learned: from the head's outputs to a loss and to predictions, one class a kind of target.

Outcomes that are unknown (NaN) take no part in any loss. What an objective learns from the labels of `train` and needs
for predictions is part of its state, so that it is saved with the weights.
"""

from ehrseq.nn.objectives.base import Objective, Told
from ehrseq.nn.objectives.categories import BinaryObjective
from ehrseq.nn.objectives.numbers import ForecastObjective
from ehrseq.nn.objectives.several import SeveralObjective, make_objective

__all__ = ["BinaryObjective", "ForecastObjective", "Objective", "SeveralObjective", "Told", "make_objective"]
