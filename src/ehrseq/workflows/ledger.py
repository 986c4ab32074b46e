"""How often a set of held-out examples has been looked at: a ledger in the data folder, beside the stores.

Whoever tries fifty models on the same held-out examples and reports the best has chosen on them. The ledger remembers
every trained model that was scored on a split, whichever run folder or tracking server its figures went to, so that
the number can be shown wherever the figures are.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from ehrseq.config.identity import configuration_of
from ehrseq.config.schema import Settings
from ehrseq.errors import EhrseqError
from ehrseq.files import digest_json, locked
from ehrseq.meds.schema import TUNING
from ehrseq.store import Store

_FOLDER = "ledger"


@dataclass(frozen=True)
class Look:
    """One model scored on one set of examples.

    Attributes:
        weights: Digest of its weights.
        configuration: Digest of its configuration, without seed and fold.
        run: Name of its run folder.
    """

    weights: str
    configuration: str
    run: str


@dataclass(frozen=True)
class Ledger:
    """All looks at one set of examples.

    Attributes:
        path: Its file, a JSON object a line; only ever appended to.
        split: Which split it is.
        looks: In their order; each model once.
    """

    path: Path
    split: str
    looks: tuple[Look, ...]

    @property
    def configurations(self) -> int:
        """How many different configurations were scored."""
        return len({look.configuration for look in self.looks})

    def tell(self) -> str:
        """The count, in a sentence."""
        models = f"{len(self.looks)} trained model{'s' if len(self.looks) != 1 else ''}"
        kinds = f"{self.configurations} configuration{'s' if self.configurations != 1 else ''}"
        return f"these {self.split} examples have been looked at with {models} of {kinds}"


def ledger_path(data: Path, store: Store, split: str, task: str) -> Path:
    """Where the looks at the examples of a split are kept.

    The name is a digest of whom is predicted when, so that the same examples under another preprocessing are the same.
    """
    samples = store.samples(split)
    total = blake3(store.subjects_of(samples).tobytes())
    total.update(store.arrays.sample_time[samples].tobytes())
    return data / _FOLDER / f"{task}-{split}-{total.hexdigest()[:16]}.jsonl"


def read_ledger(path: Path) -> Ledger:
    """The looks so far; none where there is no such file.

    Raises:
        EhrseqError: If a line is not what `record_look` wrote.
    """
    split = path.stem.rsplit("-", 2)[1]
    if not path.is_file():
        return Ledger(path, split, ())
    looks: dict[str, Look] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            look = Look(**json.loads(line))
        except (ValueError, TypeError) as error:
            raise EhrseqError(f"{path}, line {number} is not a look ({error}); mend or remove the line") from error
        looks.setdefault(look.weights, look)
    return Ledger(path, split, tuple(looks.values()))


def record_look(settings: Settings, store: Store, weights: str, run: str) -> Ledger:
    """Note that a model was scored on `evaluate.split`; the same model again is no new look.

    Looks at `tuning` are what it is there for, and are not counted.

    Args:
        settings: What the model was trained with, and which split was scored.
        store: The data.
        weights: Digest of the model's weights.
        run: Name of its run folder.
    """
    split = settings.evaluate.split
    path = ledger_path(Path(settings.paths.data), store, split, settings.task.name)
    if split == TUNING:
        return Ledger(path, split, ())
    with locked(path.with_name(".lock")):
        ledger = read_ledger(path)
        if all(look.weights != weights for look in ledger.looks):
            look = Look(weights, digest_json(configuration_of(settings)), run)
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(look.__dict__, sort_keys=True) + "\n")
            ledger = Ledger(path, split, (*ledger.looks, look))
    return ledger


def ledgers(data: Path) -> Iterable[Ledger]:
    """All ledgers of a data folder."""
    return [read_ledger(path) for path in sorted((data / _FOLDER).glob("*.jsonl"))]


def find_ledger(data: Path, weights: Iterable[str], split: str) -> Ledger | None:
    """The ledger in which some models stand, if it is here."""
    wanted = set(weights)
    for ledger in ledgers(data):
        if ledger.split == split and wanted & {look.weights for look in ledger.looks}:
            return ledger
    return None
