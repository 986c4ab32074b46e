"""Where a run stands in its sweep."""

from dataclasses import dataclass
from pathlib import Path

SWEEP, ROLE, TRIAL, REPEAT = "ehrseq.sweep", "ehrseq.role", "ehrseq.trial", "ehrseq.repeat"
PARENT = "mlflow.parentRunId"


@dataclass(frozen=True)
class RunLink:
    """What ties an MLflow run to the sweep that it belongs to.

    Attributes:
        sweep: Id of the sweep.
        parent: MLflow run of the sweep; None where MLflow could not be reached when it began.
        trial: Number of the configuration.
        repeat: Number of the repetition.
        name: What tells the run from its siblings.
        group: What tells its configuration from the others, where that has several repetitions under a run of its own.
        lock: A file on which processes wait for each other to make that run once.
    """

    sweep: str
    parent: str | None
    trial: int
    repeat: int
    name: str
    group: str | None
    lock: Path

    def tags(self, parent: str | None) -> dict[str, str]:
        """Tags with which the run begins, so that it is never without its parent."""
        tags = {SWEEP: self.sweep, ROLE: "run", TRIAL: str(self.trial), REPEAT: str(self.repeat)}
        return tags | ({PARENT: parent} if parent else {})

    def group_tags(self) -> dict[str, str]:
        """Tags of the run of its configuration."""
        tags = {SWEEP: self.sweep, ROLE: "group", TRIAL: str(self.trial)}
        return tags | ({PARENT: self.parent} if self.parent else {})
