"""Models that read no sequences: what a recurrent net has to beat."""

from ehrseq.baselines.gbm import GradientBoosting, import_lightgbm

__all__ = ["GradientBoosting", "import_lightgbm"]
