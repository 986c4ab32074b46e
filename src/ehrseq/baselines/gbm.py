"""Gradient-boosted trees (Friedman 2001) on a matrix of features, by LightGBM (Ke et al. 2017); an optional extra."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ehrseq.errors import ConfigError, RunError, TrainingError

if TYPE_CHECKING:
    from lightgbm import Booster
    from lightgbm.callback import CallbackEnv

FILE = "trees.txt"
Matrix = NDArray[np.float32]
Monitor = Literal["tuning/loss", "tuning/auroc", "tuning/auprc"]
Report = Callable[[Mapping[str, float], int], None]  # (figures, trees so far)
# LightGBM's names of our figures.
_FIGURES = {"loss": "binary_logloss", "auroc": "auc", "auprc": "average_precision"}
_NAMES = {theirs: ours for ours, theirs in _FIGURES.items()}


class GradientBoosting:
    """Trees that are added one by one until the figure on `tuning` no longer gets better.

    Args:
        num_leaves: Leaves of a tree.
        learning_rate: What a tree counts.
        n_estimators: Trees at most.
        patience: Trees added in vain before training stops.
        min_child_samples: Histories in a leaf, at least.
        feature_fraction: Share of the features that a tree may use.
        bagging_fraction: Share of the histories that a tree sees.
        reg_lambda: L2 penalty on the leaves.
        threads: None: what OpenMP takes, one a core; they change no tree.

    Attributes:
        best: How many trees are kept, once fitted.
        trained: How many were grown.
        score: The monitored figure with the trees that are kept.
    """

    def __init__(
        self,
        num_leaves: int = 7,
        learning_rate: float = 0.02,
        n_estimators: int = 3000,
        patience: int = 100,
        min_child_samples: int = 50,
        feature_fraction: float = 0.2,
        bagging_fraction: float = 0.8,
        reg_lambda: float = 10.0,
        threads: int | None = None,
    ) -> None:
        self.n_estimators = n_estimators
        self.patience = patience
        self.parameters: dict[str, Any] = {
            "objective": "binary",
            "num_leaves": num_leaves,
            "learning_rate": learning_rate,
            "min_child_samples": min_child_samples,
            "feature_fraction": feature_fraction,
            "bagging_fraction": bagging_fraction,
            "bagging_freq": 1,
            "reg_lambda": reg_lambda,
            "num_threads": threads or 0,
            # The same seed must give the same trees.
            "deterministic": True,
            "force_row_wise": True,
            "verbosity": -1,
        }
        self.best, self.trained, self.score = 0, 0, float("nan")
        self._booster: Booster | None = None

    def fit(
        self,
        train: tuple[Matrix, Matrix],
        tuning: tuple[Matrix, Matrix],
        *,
        monitor: Monitor,
        seed: int,
        positive_weight: float = 1.0,
        report: Report | None = None,
    ) -> None:
        """Grow trees on `train` and keep as many as are best on `tuning`.

        Args:
            train: Features (M, K) and labels (M,) of 0 and 1.
            tuning: Likewise.
            monitor: The figure on `tuning` that decides.
            seed: Of the shares of features and histories that a tree sees.
            positive_weight: What a positive counts, where a negative counts 1.
            report: Receives `train/loss` and the figures on `tuning` after every tree.

        Raises:
            ConfigError: If LightGBM is not installed.
            TrainingError: If the labels are not binary, or all the same.
        """
        lightgbm = _import()
        for name, (_, label) in (("train", train), ("tuning", tuning)):
            if set(np.unique(label)) != {0.0, 1.0}:
                raise TrainingError(f"gbm learns outcomes of 0 and 1, and needs both in {name}")
        watched = monitor.removeprefix("tuning/")
        # What is first decides when to stop.
        metric = [_FIGURES[watched], *(theirs for ours, theirs in _FIGURES.items() if ours != watched)]
        parameters = {**self.parameters, "metric": metric, "seed": seed, "scale_pos_weight": positive_weight}
        data = lightgbm.Dataset(train[0], train[1])
        grown = 0

        def watch(environment: "CallbackEnv") -> None:
            nonlocal grown
            grown = environment.iteration + 1
            if report is not None:
                report(_figures(environment), grown)

        booster: Booster = lightgbm.train(
            parameters,
            data,
            self.n_estimators,
            valid_sets=[data, data.create_valid(tuning[0], tuning[1])],
            valid_names=["train", "tuning"],
            callbacks=[lightgbm.early_stopping(self.patience, first_metric_only=True, verbose=False), watch],
        )
        # What LightGBM hands back ends with its best tree.
        self.best = booster.best_iteration or booster.current_iteration()
        self.trained = grown
        self.score = float(booster.best_score["tuning"][metric[0]])
        self._booster = booster

    def predict(self, matrix: Matrix) -> NDArray[np.float64]:
        """Probabilities (M,) of features (M, K)."""
        if not len(matrix):
            return np.empty(0)
        booster = self._fitted()
        threads = self.parameters["num_threads"]
        probability = booster.predict(matrix, num_iteration=self.best, num_threads=threads)
        return np.asarray(probability, np.float64)

    def importance(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Of each feature: the gain of all its splits, and their number; (K,) each."""
        booster = self._fitted()
        gain, splits = (booster.feature_importance(kind, iteration=self.best) for kind in ("gain", "split"))
        return np.asarray(gain, np.float64), np.asarray(splits, np.int64)

    def save(self, folder: Path) -> None:
        """Write the trees that are kept to `trees.txt`, in LightGBM's own text format."""
        text = self._fitted().model_to_string(num_iteration=self.best)
        (folder / FILE).write_text(text, encoding="utf-8")

    def load(self, folder: Path) -> None:
        """Read what `save` wrote.

        Raises:
            ConfigError: If LightGBM is not installed.
            RunError: If the file cannot be read.
        """
        lightgbm = _import()
        try:
            text = (folder / FILE).read_text(encoding="utf-8")
            booster: Booster = lightgbm.Booster(model_str=text)
        except (OSError, UnicodeDecodeError, lightgbm.basic.LightGBMError) as error:
            raise RunError(f"{folder / FILE} cannot be read: {' '.join(str(error).split())[:200]}") from error
        self._booster = booster
        self.best = self.trained = booster.current_iteration()

    def _fitted(self) -> "Booster":
        if self._booster is None:
            raise RunError("the trees are neither fitted nor loaded")
        return self._booster


def _figures(environment: "CallbackEnv") -> dict[str, float]:
    """The loss on `train` and all figures on `tuning`, under our names."""
    figures = {}
    for result in environment.evaluation_result_list or []:
        split, metric, value = result[:3]
        if split == "tuning" or metric == _FIGURES["loss"]:
            figures[f"{split}/{_NAMES[metric]}"] = float(value)
    return figures


def _import() -> ModuleType:
    """LightGBM.

    Raises:
        ConfigError: If it is not installed.
    """
    try:
        import lightgbm
    except (ImportError, OSError) as error:  # OSError: its library needs OpenMP, which a bare system may lack
        raise ConfigError(
            f"model=gbm needs LightGBM ({error}); install the extra: pip install 'ehrseq[gbm]'"
        ) from error
    module: ModuleType = lightgbm
    return module
