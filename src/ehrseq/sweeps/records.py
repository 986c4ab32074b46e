"""What came of each trial, in files: a sweep's folder is all that is needed to go on with it."""

import fcntl
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from ehrseq.files import atomic_file, read_json, write_json

Status = Literal["finished", "pruned", "failed", "crashed", "out_of_memory", "timed_out"]
# What another attempt may mend; a training that diverged would do so again.
TRANSIENT: tuple[Status, ...] = ("crashed", "out_of_memory", "timed_out")
# What a search learns from.
GOOD: tuple[Status, ...] = ("finished", "pruned")


@dataclass(frozen=True)
class Failure:
    """Why a trial gave no result.

    Attributes:
        kind: Class of the exception, or the signal.
        message: In one line.
        traceback: Where; of a process that was killed, the end of its log.
    """

    kind: str
    message: str
    traceback: str


@dataclass(frozen=True)
class Outcome:
    """What came of one run of a sweep.

    Attributes:
        trial: Number of the configuration.
        repeat: Number of the repetition (seed, fold).
        words: All override words: `ehrseq train` with them is this very run.
        chosen: Those that tell it from the others.
        status: How it ended.
        values: Figures, such as `tuning/loss` of the best epoch and `train/epochs`.
        folder: The run folder.
        run_id: The MLflow run.
        seconds: From the start of its process to its end, all attempts.
        attempts: How many there were.
        host: Where.
        failure: What went wrong.
    """

    trial: int
    repeat: int
    words: tuple[str, ...]
    chosen: tuple[str, ...]
    status: Status
    values: dict[str, float] = field(default_factory=dict)
    folder: str | None = None
    run_id: str | None = None
    seconds: float = 0.0
    attempts: int = 1
    host: str = field(default_factory=socket.gethostname)
    failure: Failure | None = None

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> "Outcome":
        """From what `asdict` gave."""
        failure = Failure(**plain["failure"]) if plain["failure"] else None
        lists = {name: tuple(plain[name]) for name in ("words", "chosen")}
        return cls(**{**plain, **lists, "failure": failure})

    @property
    def name(self) -> str:
        """How files and people call it."""
        return run_name(self.trial, self.repeat)


def run_name(trial: int, repeat: int) -> str:
    """The name of one run of a sweep."""
    return f"{trial:04d}-{repeat}"


class SweepFolder:
    """The folder of one sweep.

    `trials/0007-0.json` is an outcome, `trials/0007-0.log` what that run printed, `sweep.json` what the sweep is,
    `summary.json` how it ended.

    Args:
        path: The folder; made where missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.trials = path / "trials"
        self.trials.mkdir(parents=True, exist_ok=True)

    def log(self, trial: int, repeat: int) -> Path:
        """Where a run's output goes."""
        return self.trials / f"{run_name(trial, repeat)}.log"

    def record(self, outcome: Outcome) -> None:
        """Keep an outcome, whole or not at all."""
        with atomic_file(self.trials / f"{outcome.name}.json") as staging:
            write_json(staging, asdict(outcome))

    def forget(self, outcome: Outcome) -> None:
        """Remove an outcome, so that its run is due again."""
        (self.trials / f"{outcome.name}.json").unlink(missing_ok=True)

    def find(self, trial: int, repeat: int) -> Outcome | None:
        """The outcome of a run, if it has one."""
        path = self.trials / f"{run_name(trial, repeat)}.json"
        return Outcome.from_json(read_json(path)) if path.is_file() else None

    def outcomes(self) -> list[Outcome]:
        """All outcomes, in the order of the trials."""
        return [Outcome.from_json(read_json(path)) for path in sorted(self.trials.glob("[0-9]*.json"))]

    @contextmanager
    def claim(self, name: str) -> Iterator[bool]:
        """Hold the right to run something, or learn that somebody else does.

        The operating system lets go of it when its holder dies.
        """
        with (self.trials / f".{name}.lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True
