"""What a run's predictions are worth, aspect by aspect: each takes what was scored and gives figures and tables."""

from ehrseq.evaluation.findings import Findings, Scored

__all__ = ["Findings", "Scored"]
