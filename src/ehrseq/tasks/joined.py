"""Labels of several tasks in one table."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from ehrseq.errors import ConfigError
from ehrseq.meds import schema
from ehrseq.tasks.labels import LabelMaker, Labels

_KEYS = [schema.SUBJECT_ID, schema.PREDICTION_TIME]


@dataclass(frozen=True)
class JoinedLabels:
    """The labels of several makers, for a target of the kind `several`.

    There is a row for each history that any part labels; what another part does not label is null there. The column of
    a part is called as the part is; where it has several, they have their own names behind this one and `_`.

    Attributes:
        parts: Makers by name; those of a source find the labels of this name.

    Raises:
        ConfigError: If there are fewer than two.
    """

    parts: Mapping[str, LabelMaker]

    def __post_init__(self) -> None:
        if len(self.parts) < 2:
            raise ConfigError(f"parts has {len(self.parts)} label makers; there is something to join from 2 on")

    def fingerprint(self) -> dict[str, Any]:
        """Those of the parts."""
        return {"joined": {name: maker.fingerprint() for name, maker in self.parts.items()}}

    def labels(self, dataset: Path, name: str) -> Labels:  # noqa: ARG002
        """Make and join them; see `LabelMaker.labels`."""
        made = {part: maker.labels(dataset, part) for part, maker in self.parts.items()}
        frame = pl.concat([labels.frame.select(_KEYS) for labels in made.values()]).unique().sort(_KEYS)
        for part, labels in made.items():
            values = [column for column in labels.frame.columns if column not in _KEYS]
            names = {column: part if len(values) == 1 else f"{part}_{column}" for column in values}
            frame = frame.join(labels.frame.rename(names), on=_KEYS, how="left", maintain_order="left")
        steps = [(f"{part}: {step}", count) for part, labels in made.items() for step, count in labels.attrition]
        return Labels(frame, [*steps, ("labelled by any part", frame.height)])
