"""Beginning with what another run has learned, and proving that it has seen nobody who is to judge the new one."""

from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from ehrseq.config.model import Model, Trees
from ehrseq.config.representation import GridConfig
from ehrseq.config.schema import Settings
from ehrseq.errors import ConfigError, DataError
from ehrseq.meds import schema
from ehrseq.store.search import most_frequent
from ehrseq.workflows.prepare import SPLITS, Prepared
from ehrseq.workflows.runs import find_run

if TYPE_CHECKING:
    from ehrseq.nn import SequenceModel

_PARTS = ("embedding", "encoder")


@dataclass(frozen=True)
class Start:
    """What a training begins with: embedding and encoder of a finished run.

    Attributes:
        reference: What `pretrained` names.
        model: The network of that run.
        features: What the numbers of its steps refer to.
        statics: Its static features.
    """

    reference: str
    model: "SequenceModel"
    features: tuple[str, ...]
    statics: tuple[str, ...]

    def hand_on(self, model: "SequenceModel", features: tuple[str, ...], statics: tuple[str, ...]) -> int:
        """Give the weights to a new network.

        Args:
            model: The network; its embedding and encoder are changed.
            features: What the numbers of its steps refer to.
            statics: Its static features.

        Returns:
            How many tensors were given.

        Raises:
            ConfigError: If the two do not read the same; names the first difference.
        """
        for what, there, here in (("feature", self.features, features), ("static feature", self.statics, statics)):
            for number, (old, new) in enumerate(zip_longest(there, here, fillvalue="none"), start=1):
                if old != new:
                    raise ConfigError(
                        f"pretrained={self.reference}: {what} {number} is {old} there and {new} here; take the same "
                        "source, preprocess and representation"
                    )
        count = 0
        for part in _PARTS:
            weights = getattr(self.model, part).state_dict()
            getattr(model, part).load_state_dict(weights)
            count += len(weights)
        return count


def find_start(settings: Settings, prepared: Prepared) -> Start | None:
    """The run that `pretrained` names, once it is shown that it may be begun with; None where nothing is named.

    Raises:
        RunError: If there is no such run.
        ConfigError: If its embedding or encoder is another.
        DataError: If it has seen subjects of `tuning` or `held_out`, or it cannot be shown that it has not.
    """
    if settings.pretrained is None:
        return None
    pretraining = find_run(settings.pretrained, settings, "pretrained")
    there, here = pretraining.settings.model, settings.model
    if isinstance(there, Trees) or isinstance(here, Trees):
        raise ConfigError(f"pretrained={settings.pretrained}: trees have no encoder to begin with")
    _check_same(settings.pretrained, there, here)
    for digest in pretraining.stores():
        _check_unseen(settings, prepared, digest)
    preprocessor, representation = pretraining.preprocessor(), pretraining.settings.representation
    subjects = [entry.subjects for entry in preprocessor.entries if not entry.static]
    most = representation.max_features if isinstance(representation, GridConfig) else None
    features = tuple(preprocessor.codes[number] for number in most_frequent(subjects, most))
    return Start(settings.pretrained, pretraining.model(), features, preprocessor.static_features)


def _check_same(reference: str, there: Model, here: Model) -> None:
    """Refuse another embedding or encoder; dropout may differ, which has no weights and changes none."""
    for part in _PARTS:
        old, new = (
            {"_target_": block.target, **block.arguments()} for block in (getattr(there, part), getattr(here, part))
        )
        for name in old | new:
            if old.get(name) != new.get(name) and "dropout" not in name:
                raise ConfigError(
                    f"pretrained={reference}: model.{part}.{name} is {old.get(name)} there and {new.get(name)} here; "
                    "take the same"
                )


def _check_unseen(settings: Settings, prepared: Prepared, digest: str) -> None:
    """Refuse weights that were learned on subjects of `tuning` or `held_out`, or chosen by some of `held_out`."""
    found = sorted((Path(settings.paths.data) / "stores").glob(f"*-{digest}"))
    files = [folder / SPLITS for folder in found if (folder / SPLITS).is_file()]
    if not files:
        raise DataError(
            f"pretrained={settings.pretrained}: its store {digest} is not in paths.data={settings.paths.data}, so that "
            "it cannot be shown that it has seen nobody of tuning and held_out; prepare its data again there"
        )
    here, there = pl.read_parquet(prepared.store / SPLITS), pl.read_parquet(files[0])
    both = here.join(there, on=schema.SUBJECT_ID, suffix="_there").sort(schema.SUBJECT_ID)
    learned, chose = pl.col("split_there") == schema.TRAIN, pl.col("split_there") == schema.TUNING
    judges = pl.col("split") == schema.HELD_OUT
    # Who chose the best epoch there may choose it here: only those of `held_out` must be new to both.
    seen = both.filter((learned & ((pl.col("split") == schema.TUNING) | judges)) | (chose & judges))
    if seen.height:
        subject, split, other = seen.row(0)
        raise DataError(
            f"pretrained={settings.pretrained}: {seen.height} subjects of tuning or held_out took part in its "
            f"training, the first is {subject} ({other} there, {split} here); give both the same source and split"
        )
