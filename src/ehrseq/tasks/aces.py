"""Labels from an ACES task file (Xu et al. 2024, "ACES: Automatic Cohort Extraction System for Event-Streams")."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl

from ehrseq.errors import DataError
from ehrseq.files import digest_file
from ehrseq.meds import schema
from ehrseq.meds.read import list_shards
from ehrseq.tasks.labels import Labels


@dataclass(frozen=True)
class AcesLabels:
    """A task in the language of ACES; needs the extra `aces`.

    Attributes:
        path: The task file, YAML.
        predicates: A file of predicates, where the task file has none.
    """

    path: str
    predicates: str | None = None

    def fingerprint(self) -> dict[str, Any]:
        """Digests of the files."""
        return {"aces": [digest_file(path)[:16] for path in self._paths()]}

    def labels(self, dataset: Path, name: str) -> Labels:  # noqa: ARG002
        """Run ACES shard by shard; see `LabelMaker.labels`.

        Raises:
            DataError: Also if ACES is not installed or refuses the task.
        """
        try:
            from aces import config, predicates, query
        except ImportError as error:
            raise DataError("task.labels: ACES task files need the extra: pip install 'ehrseq[aces]'") from error
        paths = self._paths()
        try:
            task = config.TaskExtractorConfig.load(paths[0], *paths[1:])
            frames = []
            for shard in list_shards(dataset):
                data = SimpleNamespace(path=str(shard), standard="meds", ts_format=None)
                found = query.query(task, predicates.get_predicates_df(task, data))
                if found.height:
                    frames.append(found)
        except Exception as error:  # whatever a foreign package raises about the user's task file
            raise DataError(f"{self.path}: ACES cannot run this task: {type(error).__name__}: {error}") from error
        if not frames:
            raise DataError(f"{self.path}: ACES finds no histories for this task")
        found = pl.concat(frames)
        missing = [column for column in ("index_timestamp", "label") if column not in found.columns]
        if missing:
            raise DataError(f"{self.path}: the task names no {' and no '.join(missing)}; ehrseq needs both")
        frame = found.select(
            pl.col(schema.SUBJECT_ID).cast(pl.Int64),
            pl.col("index_timestamp").cast(pl.Datetime("us")).alias(schema.PREDICTION_TIME),
            (pl.col("label") > 0).alias(schema.BOOLEAN_VALUE),
        )
        frame = frame.unique([schema.SUBJECT_ID, schema.PREDICTION_TIME], keep="first", maintain_order=True)
        return Labels(
            frame.sort(schema.SUBJECT_ID, schema.PREDICTION_TIME), [("histories that ACES found", frame.height)]
        )

    def _paths(self) -> list[Path]:
        paths = [Path(item).expanduser() for item in (self.path, self.predicates) if item]
        for path in paths:
            if not path.is_file():
                raise DataError(f"task.labels: {path} does not exist")
        return paths
