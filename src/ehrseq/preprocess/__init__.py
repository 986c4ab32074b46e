"""Preprocessing: fitted on `train` alone, then applied to every event in the same way."""

from ehrseq.preprocess.fitted import CodeEntry, Preprocessor
from ehrseq.preprocess.pipeline import Engine, build_store, fit_dataset

__all__ = ["CodeEntry", "Engine", "Preprocessor", "build_store", "fit_dataset"]
