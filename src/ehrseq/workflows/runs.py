"""Run folders: where they are, what is in them, how a run is found again."""

import re
import tempfile
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ehrseq.baselines.gbm import FILE as TREES
from ehrseq.config.load import read_settings
from ehrseq.config.model import Blend, Trees
from ehrseq.config.schema import Loader, Settings, Trainer
from ehrseq.config.targets import Target, read_target
from ehrseq.errors import RunError
from ehrseq.files import digest_file, digest_json, read_json, read_manifest
from ehrseq.metrics.recalibration import Calibrator
from ehrseq.preprocess import Preprocessor
from ehrseq.tracking import describe_run_id, reason
from ehrseq.workflows.build import build_booster, build_model
from ehrseq.workflows.learn import IMPORTANCE, WEIGHTS, member_folder, member_folds
from ehrseq.workflows.prepare import PREPROCESSOR, Prepared
from ehrseq.workflows.recalibration import CALIBRATION, apply_calibrators, read_calibrators
from ehrseq.workflows.scorers import BlendScorer, EnsembleScorer, Scorer, TreesScorer, network_scorer

if TYPE_CHECKING:
    from ehrseq.nn import SequenceModel

TRAIN, EVALUATE, EXPLAIN, AUDIT = "train", "evaluate", "explain", "audit"
CONFIG, TARGET = "config.yaml", "target.json"
_MLFLOW_ID = re.compile(r"[0-9a-f]{32}")


def train_key(settings: Settings, prepared: Prepared) -> dict[str, Any]:
    """What determines a training: the store and every setting that touches the weights."""
    if isinstance(settings.model, Trees):
        plain = [settings.model.plain(), {"monitor": settings.trainer.monitor, "weight": settings.loss.class_weight}]
    else:
        parts = (
            settings.representation,
            settings.model,
            settings.optim,
            settings.loss,
            settings.trainer,
            settings.loader,
        )
        plain = [part.plain() for part in parts]
        for part, names in ((plain[4], Trainer.harmless), (plain[5], Loader.harmless)):
            for name in names:
                del part[name]
        plain.append({"outputs": settings.outputs})
        if settings.teacher is not None:
            plain.append({"teacher": settings.teacher.plain()})
        if settings.blend is not None:
            plain.append({"blend": settings.blend.plain()})
    key: dict[str, Any] = {"store": prepared.digest, "config": digest_json(plain), "seed": settings.seed}
    if settings.members > 1:
        key["members"] = settings.members
    if settings.members_by != "seeds":
        key["members_by"] = settings.members_by
    if settings.pretrained is not None:
        pretraining = find_run(settings.pretrained, settings, "pretrained")
        # The stores go along, so that whoever begins with this run in turn knows whom its weights have seen.
        key["pretrained"] = {"weights": pretraining.weights_digest, "stores": pretraining.stores()}
    return key


def run_folder(settings: Settings, prepared: Prepared) -> Path:
    """The folder of the run that these settings describe."""
    name = (
        f"{prepared.source}-{settings.task.name}-{settings.model.name}-{digest_json(train_key(settings, prepared))[:8]}"
    )
    return Path(settings.paths.runs) / name


@dataclass(frozen=True)
class TrainedRun:
    """A finished training.

    Attributes:
        folder: The run folder.
        settings: What it was trained with.
        key: The key in its manifest.
        weights_digest: Digest of the weights, of all members.
    """

    folder: Path
    settings: Settings
    key: dict[str, Any]
    weights_digest: str

    def stores(self) -> list[str]:
        """Digests of all stores that its weights have learned from: its own, and those of its pretraining."""
        return [self.key["store"], *self.key.get("pretrained", {"stores": []})["stores"]]

    def preprocessor(self) -> Preprocessor:
        """The preprocessing that was fitted for this run."""
        return Preprocessor.from_json(read_json(self.folder / TRAIN / PREPROCESSOR))

    def target(self) -> Target:
        """What it predicts, with the classes or labels that were found."""
        return read_target(read_json(self.folder / TRAIN / TARGET))

    def recalibrate(self, prediction: NDArray[np.float64], method: str) -> NDArray[np.float64]:
        """Predictions (M, P) mended by what was fitted on `tuning`; `none` changes nothing.

        Raises:
            RunError: If nothing was fitted.
        """
        if method == "none":
            return prediction
        calibrators = self.calibrators()
        if not calibrators:
            raise RunError(
                f"recalibration={method}: nothing was fitted for it in {self.folder / TRAIN}; train again (force=true)"
            )
        return apply_calibrators(self.target(), calibrators, method, prediction)

    def calibrators(self) -> dict[str, dict[str, Calibrator]]:
        """How the run's risks can be mended: by the name of the prediction and of the method; empty where none was."""
        path = self.folder / TRAIN / CALIBRATION
        return read_calibrators(read_json(path)) if path.is_file() else {}

    def scorer(self) -> Scorer:
        """The network, the trees or both, or all members of an ensemble, ready to score histories."""
        members = tuple(self._member(number) for number in range(self.settings.members))
        return members[0] if len(members) == 1 else EnsembleScorer(members, member_folds(self.settings))

    def _member(self, number: int) -> Scorer:
        model, blend = self.settings.model, self.settings.blend
        if isinstance(model, Trees):
            return self._trees(number, model)
        network = network_scorer(self.model(number), self.settings)
        return network if blend is None else BlendScorer(network, self._trees(number, blend), blend.weight)

    def _trees(self, number: int, config: Trees | Blend) -> Scorer:
        booster = build_booster(config, self.target())
        booster.load(member_folder(self.folder / TRAIN, number))
        return TreesScorer(booster, config.summary)

    def model(self, member: int = 0) -> "SequenceModel":
        """The network with its best weights; of an ensemble, one member; of a blend, without the trees.

        Raises:
            RunError: If this is a run of trees.
        """
        if isinstance(self.settings.model, Trees):
            raise RunError(
                f"{self.folder.name} is a run of trees, which are not explained; "
                f"the gain of each feature is in {self.folder / TRAIN / IMPORTANCE}"
            )
        from safetensors.torch import load_file

        model = self.blank()
        model.load_state_dict(load_file(member_folder(self.folder / TRAIN, member) / WEIGHTS))
        return model.eval()

    def blank(self) -> "SequenceModel":
        """A network as it was before it learned anything, of random weights."""
        preprocessor = self.preprocessor()
        return build_model(
            self.settings.model,
            self.target(),
            self.settings.loss,
            self.settings.representation.inputs_of(len(preprocessor.codes)),
            len(preprocessor.static_features),
        )


def open_run(folder: Path) -> TrainedRun:
    """Open a run folder.

    Raises:
        RunError: If it holds no finished training, or its weights were changed since.
    """
    # The folder `train/` inside a run folder is what people see in it: take that for the run as well.
    if folder.name == TRAIN and (folder / CONFIG).is_file():
        folder = folder.parent
    manifest = read_manifest(folder / TRAIN)
    if manifest is None:
        raise RunError(f"{folder} is not a run folder with a finished training (no {TRAIN}/manifest.json)")
    settings = read_settings(folder / TRAIN / CONFIG, of_run=True)
    digests = []
    names = [TREES] if isinstance(settings.model, Trees) else [WEIGHTS, *([] if settings.blend is None else [TREES])]
    for number, name in product(range(settings.members), names):
        weights = member_folder(folder / TRAIN, number) / name
        digests.append(digest_file(weights) if weights.is_file() else "missing")
        if digests[-1] != manifest["files"].get(weights.relative_to(folder / TRAIN).as_posix()):
            raise RunError(f"{weights} is not what the training wrote (digest {digests[-1][:16]}); train again")
    digest = digests[0] if len(digests) == 1 else digest_json(digests)
    return TrainedRun(folder, settings, manifest["key"], digest)


def find_run(reference: str, settings: Settings, key: str = "run") -> TrainedRun:
    """A run by its folder or its MLflow run id.

    Args:
        reference: What stands after `run=`, or another key.
        settings: For `paths.runs` and `tracking.uri`.
        key: The key.

    Raises:
        RunError: If there is no such run.
    """
    path = Path(reference).expanduser()
    if path.is_dir():
        return open_run(path)
    if not _MLFLOW_ID.fullmatch(reference):
        raise RunError(f"{key}={reference}: no such folder, and not an MLflow run id (32 hexadecimal digits)")
    for state in sorted(Path(settings.paths.runs).glob("*/tracking/run.json")):
        folder = state.parent.parent
        if (describe_run_id(folder) or {}).get("run_id") == reference:
            return open_run(folder)
    return _fetch(reference, settings.tracking.uri, key)


@cache
def _fetch(run_id: str, uri: str, key: str) -> TrainedRun:
    """Bring a run's model from MLflow, for people who do not have the run folder."""
    from ehrseq.tracking.client import download_artifacts

    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
        raise RunError(
            f"{key}={run_id}: no run folder here has this id, and there is no {uri} (config key tracking.uri)"
        )
    target = Path(tempfile.mkdtemp(prefix="ehrseq-")) / run_id
    target.mkdir()
    try:
        for part in (TRAIN, EVALUATE):
            download_artifacts(uri, run_id, part, target)
    except Exception as error:
        raise RunError(f"{key}={run_id}: not found in {uri} (config key tracking.uri): {reason(error)}") from error
    return open_run(target)
