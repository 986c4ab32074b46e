"""The fitted preprocessing: vocabulary, limits, repairs, normaliser; saved with the run as JSON."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Repair:
    """Values in [low, high] are a known mix-up of units; the mended value is value * scale + offset."""

    low: float
    high: float
    scale: float
    offset: float


@dataclass(frozen=True)
class CodeEntry:
    """One code of the vocabulary.

    Attributes:
        code: The MEDS code.
        static: Whether this is the code of events without a time.
        numeric: Whether it carries numbers; if not, its presence is the information.
        low: Smallest plausible value, or None.
        high: Largest plausible value, or None.
        repairs: Known mix-ups, mended before the limits are applied.
        log: Whether log(1 + value) is normalised in place of the value.
        center: Subtracted from the value.
        scale: The value is divided by it.
        unit: For people.
        subjects: Train subjects that have it.
        events: Train events it was fitted on.
    """

    code: str
    static: bool
    numeric: bool
    low: float | None = None
    high: float | None = None
    repairs: tuple[Repair, ...] = ()
    log: bool = False
    center: float = 0.0
    scale: float = 1.0
    unit: str | None = None
    subjects: int = 0
    events: int = 0


@dataclass(frozen=True)
class Outcome:
    """What became of some values.

    Attributes:
        value: (E,) normalised values; NaN where there is none.
        keep: (E,) False where the value was outside the limits, so that the event is left out.
        repaired: (E,) whether a mix-up was mended.
        clipped: (E,) whether the normalised value was cut.
    """

    value: NDArray[np.float32]
    keep: NDArray[np.bool_]
    repaired: NDArray[np.bool_]
    clipped: NDArray[np.bool_]


@dataclass(frozen=True)
class Preprocessor:
    """All codes, timed ones first, each group in the order of the codes' names.

    Attributes:
        entries: The vocabulary.
        clip: Normalised values are cut to [-clip, clip]; None: never.
    """

    entries: tuple[CodeEntry, ...]
    clip: float | None

    @property
    def codes(self) -> tuple[str, ...]:
        """The F timed codes."""
        return tuple(entry.code for entry in self.entries if not entry.static)

    @property
    def static_entries(self) -> tuple[CodeEntry, ...]:
        """The entries of static codes."""
        return tuple(entry for entry in self.entries if entry.static)

    @property
    def static_features(self) -> tuple[str, ...]:
        """The S static features: presence of each static code, and its value where it is numeric."""
        names = []
        for entry in self.static_entries:
            names += [entry.code, f"{entry.code} (value)"] if entry.numeric else [entry.code]
        return tuple(names)

    def clean(
        self, entry: NDArray[np.integer[Any]], value: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
        """Mend mix-ups and find what is outside the limits.

        Args:
            entry: (E,) position in `entries`.
            value: (E,) raw values; NaN where there is none.

        Returns:
            (values (E,), keep (E,), repaired (E,)).
        """
        return clean(self.entries, entry, value)

    def apply(self, entry: NDArray[np.integer[Any]], value: NDArray[np.float64]) -> Outcome:
        """Mend, limit and normalise values.

        Args:
            entry: (E,) position in `entries`.
            value: (E,) raw values; NaN where there is none.
        """
        mended, keep, repaired = self.clean(entry, value)
        log = np.array([item.log for item in self.entries], bool)[entry]
        center = np.array([item.center for item in self.entries], np.float64)[entry]
        scale = np.array([item.scale for item in self.entries], np.float64)[entry]
        moved = (np.where(log, np.log1p(np.maximum(mended, 0)), mended) - center) / scale
        limit = np.inf if self.clip is None else self.clip
        clipped = np.abs(moved) > limit
        return Outcome(np.clip(moved, -limit, limit).astype(np.float32), keep, repaired, clipped)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types; `from_json` reads them back to an equal object."""
        return {"clip": self.clip, "entries": [asdict(entry) for entry in self.entries]}

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> "Preprocessor":
        """The inverse of `to_json`."""
        entries = []
        for item in plain["entries"]:
            repairs = tuple(Repair(**repair) for repair in item["repairs"])
            entries.append(CodeEntry(**{**item, "repairs": repairs}))
        return cls(tuple(entries), plain["clip"])


def clean(
    entries: Sequence[CodeEntry], entry: NDArray[np.integer[Any]], value: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
    """Mend mix-ups and find what is outside the limits; see `Preprocessor.clean`."""
    mended = value.copy()
    repaired = np.zeros(len(value), bool)
    for index, item in enumerate(entries):
        if item.repairs:
            rows = np.flatnonzero(entry == index)
            for repair in item.repairs:
                # Judged by the raw value, so that one repair never sets off the next.
                hit = rows[(value[rows] >= repair.low) & (value[rows] <= repair.high)]
                mended[hit] = value[hit] * repair.scale + repair.offset
                repaired[hit] = True
    low = np.array([-np.inf if item.low is None else item.low for item in entries])[entry]
    high = np.array([np.inf if item.high is None else item.high for item in entries])[entry]
    with np.errstate(invalid="ignore"):
        # float32 on disk: a value written as the limit itself must pass.
        keep = ~((mended < low - 1e-6 * np.abs(low)) | (mended > high + 1e-6 * np.abs(high)))
    return mended, keep, repaired
