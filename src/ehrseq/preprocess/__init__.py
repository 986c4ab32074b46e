"""Preprocessing: fitted on `train` alone, then applied to every event in the same way."""

from ehrseq.preprocess.fit import fit
from ehrseq.preprocess.fitted import CodeEntry, Preprocessor
from ehrseq.preprocess.tensorise import tensorise

__all__ = ["CodeEntry", "Preprocessor", "fit", "tensorise"]
