"""Gradient-boosted trees (Friedman 2001) on a matrix of features, by LightGBM (Ke et al. 2017); an optional extra."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ehrseq.baselines.watched import Floats, OwnFigures, in_units, lightgbm_name, read_figures
from ehrseq.config.targets import WATCHED, BinaryTarget, MulticlassTarget, RegressionTarget, Target
from ehrseq.errors import ConfigError, RunError, TrainingError

if TYPE_CHECKING:
    from lightgbm import Booster, Dataset
    from lightgbm.callback import CallbackEnv

FILE = "trees.txt"
Matrix = NDArray[np.float32]
Ints = NDArray[np.int64]
Report = Callable[[Mapping[str, float], int], None]  # (figures, trees so far)
_BINARY = BinaryTarget(kind="binary")
# The same seed must give the same trees; by columns they are also the same with any number of threads, and a tree that
# may use a fifth of the features is grown up to three times as fast as by rows.
REPEATABLE = {
    "deterministic": True,
    "force_col_wise": True,
    "data_random_seed": 1,  # of the histories by which bins are found, where there are very many
    "verbosity": -1,
}


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
        extra_trees: Whether a threshold of each feature is drawn by chance, of which the best feature's is taken
            (Geurts et al. 2006, "Extremely randomized trees").
        threads: None: what OpenMP takes, one a core; they change no tree.
        target: What is predicted: binary, multiclass (with its classes) or regression.

    Attributes:
        best: How many trees are kept, once fitted.
        trained: How many were grown.
        score: The monitored figure with the trees that are kept.

    Raises:
        ConfigError: If trees cannot learn the target.
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
        extra_trees: bool = False,
        threads: int | None = None,
        target: Target = _BINARY,
    ) -> None:
        if not isinstance(target, BinaryTarget | MulticlassTarget | RegressionTarget):
            raise ConfigError(f"trees learn binary, multiclass and regression targets; this is {target.kind}")
        self.target = target
        self.n_estimators = n_estimators
        self.patience = patience
        self.parameters: dict[str, Any] = {
            "objective": target.kind,
            "num_leaves": num_leaves,
            "learning_rate": learning_rate,
            "min_child_samples": min_child_samples,
            "feature_fraction": feature_fraction,
            "bagging_fraction": bagging_fraction,
            "bagging_freq": 1,
            "reg_lambda": reg_lambda,
            "extra_trees": extra_trees,
            "num_threads": threads or 0,
            **REPEATABLE,
        }
        self._columns = 1
        if isinstance(target, MulticlassTarget):
            self._columns = self.parameters["num_class"] = len(target.classes)
        self.best, self.trained, self.score = 0, 0, float("nan")
        self._booster: Booster | None = None

    def fit(
        self,
        train: tuple[Matrix, Matrix],
        tuning: tuple[Matrix, Matrix],
        *,
        monitor: str,
        seed: int,
        class_weight: Literal["none", "balanced"] | float = "none",
        report: Report | None = None,
    ) -> None:
        """Grow trees on `train` and keep as many as are best on `tuning`.

        Args:
            train: Features (M, K) and outcomes (M, 1), see `ehrseq.tasks.Outcomes`.
            tuning: Likewise.
            monitor: The figure on `tuning` that decides: `tuning/loss` or one of `ehrseq.config.targets.WATCHED`.
            seed: Of the shares of features and histories that a tree sees.
            class_weight: What a positive counts, where a negative counts 1; balanced: as if all classes were as
                frequent.
            report: Receives `train/loss` and the figures on `tuning` after every tree.

        Raises:
            ConfigError: If LightGBM is not installed.
            TrainingError: If the outcomes are none of the target, or all the same.
        """
        for name, (_, outcome) in (("train", train), ("tuning", tuning)):
            self._check(outcome[:, 0], name)
        positive, weight = 1.0, None
        if isinstance(self.target, BinaryTarget):
            positive = _positive_weight(train[1][:, 0], class_weight)
        elif class_weight == "balanced":
            weight = _balance(train[1][:, 0])
        self._grow(*self._bin(train, tuning, weight), monitor, seed, positive, report)

    def cross_fit(
        self,
        train: tuple[Matrix, Matrix],
        tuning: tuple[Matrix, Matrix],
        folds: Ints,
        *,
        monitor: str,
        seed: int,
        copies: Sequence[Matrix] = (),
    ) -> Floats:
        """What trees say of each history of `train`, grown on the folds that it is not in; what was fitted is gone.

        All trees share the bins in which LightGBM counts features, those of the whole `train`: to find them takes as
        long as to grow trees.

        Args:
            train: Features (M, K) and outcomes (M, 1); NaN where one is not known: nothing is learned there.
            tuning: Likewise, all known; as in `fit`, it decides when trees stop growing.
            folds: (R, M) the fold of each history; each of R repeats has its own.
            monitor: As in `fit`.
            seed: Of the first repeat; each has another.
            copies: Features (M, K) of C other histories of the same subjects, which the same trees tell of.

        Returns:
            Predictions (R, 1 + C, M, P).

        Raises:
            ConfigError: If LightGBM is not installed.
            TrainingError: If outcomes are none of the target, or all the same without a fold.
        """
        features, _ = train
        told = np.empty((len(folds), 1 + len(copies), folds.shape[1], self._columns))
        grow = self._growing(train, tuning, monitor)
        for number, fold in enumerate(folds):
            for own in np.unique(fold):
                grow(fold != own, seed + number)
                for place, matrix in enumerate((features, *copies)):
                    told[number, place, fold == own] = self.predict(matrix[fold == own])
        return told

    def fit_whole(
        self,
        train: tuple[Matrix, Matrix],
        tuning: tuple[Matrix, Matrix],
        others: Sequence[Matrix],
        *,
        repeats: int,
        monitor: str,
        seed: int,
    ) -> Floats:
        """What trees that have grown on all of `train` say of other histories; what was fitted is gone.

        Args:
            train: As in `cross_fit`, as is the rest.
            tuning: Likewise.
            others: Features (N, K) of O sets of histories.
            repeats: R, how often trees are grown.
            monitor: As in `fit`.
            seed: Of the first repeat; each has another.

        Returns:
            Predictions (R, O, N, P).

        Raises:
            ConfigError: If LightGBM is not installed.
            TrainingError: If outcomes are none of the target, or all the same.
        """
        grow = self._growing(train, tuning, monitor)
        told = []
        for number in range(repeats):
            grow(np.ones(len(train[0]), bool), seed + number)
            told.append([self.predict(matrix) for matrix in others])
        return np.array(told)

    def _growing(
        self, train: tuple[Matrix, Matrix], tuning: tuple[Matrix, Matrix], monitor: str
    ) -> Callable[[NDArray[np.bool_], int], None]:
        """What grows trees on some histories of `train`, as far as their outcomes are known, with a seed."""
        features, outcome = train
        self._check(tuning[1][:, 0], "tuning")
        known = ~np.isnan(outcome[:, 0])
        data, watched = self._bin((features, np.nan_to_num(outcome)), tuning)

        def grow(on: NDArray[np.bool_], seed: int) -> None:
            grown = np.flatnonzero(on & known)
            self._check(outcome[grown, 0], "train")
            self._grow(data.subset(grown.tolist()), watched, monitor, seed)

        return grow

    def _bin(
        self, train: tuple[Matrix, Matrix], tuning: tuple[Matrix, Matrix], weight: Matrix | None = None
    ) -> tuple["Dataset", "Dataset"]:
        """Features and outcomes of both, as LightGBM reads them, by the bins of `train`."""
        features, outcome = train
        data: Dataset = import_lightgbm().Dataset(
            features, self._learned(outcome), weight=weight, params=self.parameters
        )
        return data, data.create_valid(tuning[0], self._learned(tuning[1]))

    def _grow(
        self,
        train: "Dataset",
        tuning: "Dataset",
        monitor: str,
        seed: int,
        positive: float = 1.0,
        report: Report | None = None,
    ) -> None:
        """Grow trees, see `fit`; `positive` is what a positive counts, where a negative counts 1."""
        lightgbm = import_lightgbm()
        watched = monitor.removeprefix("tuning/")
        # What is first decides when to stop; the others are for the report alone, and cost a fifth of the time.
        others = [name for name in ("loss", *WATCHED[self.target.kind]) if name != watched] if report else []
        order = [watched, *others]
        parameters, figures = {**self.parameters, "seed": seed}, None
        if isinstance(self.target, BinaryTarget):
            theirs = [lightgbm_name(name, self.target) for name in order]
            parameters |= {"metric": theirs, "scale_pos_weight": positive}
        else:
            parameters |= {"metric": "None"}
            figures = OwnFigures(self.target, order)
        valid = {"tuning": tuning} | ({"train": train} if report else {})
        grown = 0

        def watch(environment: "CallbackEnv") -> None:
            nonlocal grown
            grown = environment.iteration + 1
            if report is not None:
                report(read_figures(environment), grown)

        booster: Booster = lightgbm.train(
            parameters,
            train,
            self.n_estimators,
            valid_sets=list(valid.values()),
            valid_names=list(valid),
            feval=figures,
            callbacks=[lightgbm.early_stopping(self.patience, first_metric_only=True, verbose=False), watch],
        )
        # What LightGBM hands back ends with its best tree.
        self.best = booster.best_iteration or booster.current_iteration()
        self.trained = grown
        self.score = float(booster.best_score["tuning"][lightgbm_name(watched, self.target)])
        self._booster = booster

    def predict(self, matrix: Matrix) -> Floats:
        """Predictions (M, P) of features (M, K), see `ehrseq.config.targets.prediction_names`."""
        booster = self._fitted()
        if not len(matrix):
            return np.empty((0, self._columns))
        threads = self.parameters["num_threads"]
        output = booster.predict(matrix, num_iteration=self.best, num_threads=threads)
        return in_units(np.asarray(output, np.float64).reshape(-1, self._columns), self.target)

    def _learned(self, outcome: Matrix) -> Matrix:
        """Outcomes (M, 1) as LightGBM takes them, (M,)."""
        is_log = isinstance(self.target, RegressionTarget) and self.target.log
        return np.log1p(outcome[:, 0]) if is_log else outcome[:, 0]

    def _check(self, outcome: Matrix, split: str) -> None:
        """Refuse what cannot be learned or watched."""
        found = np.unique(outcome)
        match self.target:
            case BinaryTarget():
                if set(found) != {0.0, 1.0}:
                    raise TrainingError(f"gbm learns outcomes of 0 and 1, and needs both in {split}")
            case MulticlassTarget(classes=classes):
                if len(found) < 2 or not set(found) <= set(range(len(classes))):
                    raise TrainingError(
                        f"gbm learns classes of 0 to {len(classes) - 1}, and needs two of them or more in {split}"
                    )
            case _:
                if not len(found) or not np.isfinite(found).all():
                    raise TrainingError(f"gbm learns finite numbers, and needs some in {split}")

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
        lightgbm = import_lightgbm()
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


def _positive_weight(outcome: Matrix, class_weight: str | float) -> float:
    """Weight of a positive: 1, what balances the classes, or the number given."""
    if isinstance(class_weight, str):
        return float((outcome == 0).sum() / (outcome == 1).sum()) if class_weight == "balanced" else 1.0
    return float(class_weight)


def _balance(outcome: Matrix) -> Matrix:
    """Weights (M,) that give all classes the same sum, 1 on average."""
    _, number, count = np.unique(outcome, return_inverse=True, return_counts=True)
    return (len(outcome) / len(count) / count)[number].astype(np.float32)


def import_lightgbm() -> ModuleType:
    """LightGBM, an extra.

    Raises:
        ConfigError: If it is not installed.
    """
    try:
        import lightgbm
    except (ImportError, OSError) as error:  # OSError: its library needs OpenMP, which a bare system may lack
        raise ConfigError(
            f"trees (model=gbm, teacher=trees, blend=trees) need LightGBM ({error}); install the extra: "
            "pip install 'ehrseq[gbm]'"
        ) from error
    module: ModuleType = lightgbm
    return module
