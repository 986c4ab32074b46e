"""Models that read no sequences: what a recurrent net has to beat."""

from ehrseq.baselines.gbm import GradientBoosting, import_lightgbm
from ehrseq.baselines.thresholds import find_thresholds

__all__ = ["GradientBoosting", "find_thresholds", "import_lightgbm"]
