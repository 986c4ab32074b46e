"""Models that read no sequences: what a recurrent net has to beat."""

from ehrseq.baselines.gbm import GradientBoosting

__all__ = ["GradientBoosting"]
