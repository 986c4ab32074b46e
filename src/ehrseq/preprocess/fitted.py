"""The fitted preprocessing: vocabulary, limits, repairs, normaliser; saved with the run as JSON."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ehrseq.preprocess.groups import Groups
from ehrseq.preprocess.hierarchy import Hierarchy

# Positions are right by construction; numpy takes twice as long where it looks at them.
_UNCHECKED: Literal["clip"] = "clip"
UNKNOWN = "UNKNOWN"  # the entry of timed codes that have none, where the configuration wants one


def signed_log(value: NDArray[np.float64]) -> NDArray[np.float64]:
    """log(1 + |value|) with the sign of the value: tails on either side of 0 come closer."""
    logarithm: NDArray[np.float64] = np.copysign(np.log1p(np.abs(value)), value)
    return logarithm


def undo_signed_log(value: NDArray[np.float64]) -> NDArray[np.float64]:
    """The inverse of `signed_log`."""
    plain: NDArray[np.float64] = np.copysign(np.expm1(np.abs(value)), value)
    return plain


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
        log: Whether `signed_log` of the value is normalised in its place.
        center: Subtracted from the value.
        scale: The value is divided by it.
        quantiles: Evenly spaced quantiles of the values, where these are what normalises; a value becomes its rank
            among them, with mean 0 and standard deviation 1 in `train`.
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
    quantiles: tuple[float, ...] = ()
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
        hierarchy: Where a code that has no entry falls back to.
        text_values: Whether an event with a text and no number is a code of its own, `<code>//<text>`.
    """

    entries: tuple[CodeEntry, ...]
    clip: float | None
    hierarchy: Hierarchy = field(default_factory=lambda: Hierarchy("none"))
    text_values: bool = False

    def find(self, code: str, static: bool) -> tuple[int, bool]:
        """The entry for a code.

        Returns:
            Position in `entries`, -1 for none, and whether it is the code's own: values of others are not taken.
        """
        position = self._positions.get((static, code))
        if position is not None:
            return position, True
        for ancestor in self.hierarchy.ancestors(code):
            position = self._positions.get((static, ancestor))
            if position is not None:
                return position, False
        return (-1 if static else self._positions.get((False, UNKNOWN), -1)), False

    @cached_property
    def _positions(self) -> dict[tuple[bool, str], int]:
        return {(entry.static, entry.code): position for position, entry in enumerate(self.entries)}

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

    def apply(self, entry: NDArray[np.integer[Any]], value: NDArray[np.float64]) -> Outcome:
        """Mend, limit and normalise values.

        Args:
            entry: (E,) position in `entries`.
            value: (E,) raw values; NaN where there is none.
        """
        mended, keep, repaired = self._limits.clean(entry, value)
        log, center, scale = self._scales
        moved = mended.copy()
        if log.any():
            logged = np.flatnonzero(log.take(entry, mode=_UNCHECKED))
            moved[logged] = signed_log(moved.take(logged))
        moved -= center.take(entry, mode=_UNCHECKED)
        moved /= scale.take(entry, mode=_UNCHECKED)
        self._rank(entry, mended, moved)
        if self.clip is None:
            return Outcome(moved.astype(np.float32), keep, repaired, np.zeros(len(moved), bool))
        cut = np.clip(moved, -self.clip, self.clip)
        return Outcome(cut.astype(np.float32), keep, repaired, np.abs(moved) > self.clip)

    @cached_property
    def _limits(self) -> "Limits":
        return Limits.of(self.entries)

    @cached_property
    def _scales(self) -> tuple[NDArray[np.bool_], NDArray[np.float64], NDArray[np.float64]]:
        """Of each entry: on the log scale or not, centre, scale."""
        return (
            np.array([entry.log for entry in self.entries], bool),
            np.array([entry.center for entry in self.entries], np.float64),
            np.array([entry.scale for entry in self.entries], np.float64),
        )

    def _rank(self, entry: NDArray[np.integer[Any]], value: NDArray[np.float64], result: NDArray[np.float64]) -> None:
        """Put ranks into `result` where quantiles normalise; equal quantiles give the middle of their ranks."""
        ranked = np.array([bool(item.quantiles) for item in self.entries], bool)
        if not ranked.any():
            return
        rows = np.flatnonzero(ranked[entry] & ~np.isnan(value))
        for index, part in Groups.of(entry[rows], len(ranked)):
            mine = rows[part]
            knots = np.array(self.entries[index].quantiles)
            grid = np.linspace(0, 1, len(knots))
            up = np.interp(value[mine], knots, grid)
            down = -np.interp(-value[mine], -knots[::-1], -grid[::-1])
            # A uniform rank has the deviation 1 / sqrt(12).
            result[mine] = ((up + down) / 2 - 0.5) * np.sqrt(12)

    def restore(self, entry: NDArray[np.integer[Any]], value: NDArray[np.float64]) -> NDArray[np.float64]:
        """Normalised values back in the units of their codes, the inverse of `apply` but for what was clipped.

        Args:
            entry: (E,) position in `entries`.
            value: (E,) normalised values.
        """
        log, center, scale = self._scales
        restored: NDArray[np.float64] = value * scale[entry] + center[entry]
        logged = np.flatnonzero(log[entry])
        restored[logged] = undo_signed_log(restored[logged])
        for index in np.unique(entry):
            if quantiles := self.entries[index].quantiles:
                mine = np.flatnonzero(entry == index)
                rank = value[mine] / np.sqrt(12) + 0.5
                restored[mine] = np.interp(rank, np.linspace(0, 1, len(quantiles)), quantiles)
        return restored

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types; `from_json` reads them back to an equal object."""
        return {
            "clip": self.clip,
            "entries": [asdict(entry) for entry in self.entries],
            "fallback": self.hierarchy.kind,
            "parents": {code: list(parents) for code, parents in sorted(self.hierarchy.parents.items())},
            "text_values": self.text_values,
        }

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> "Preprocessor":
        """The inverse of `to_json`."""
        entries = []
        for item in plain["entries"]:
            repairs = tuple(Repair(**repair) for repair in item["repairs"])
            entries.append(CodeEntry(**{**item, "repairs": repairs, "quantiles": tuple(item["quantiles"])}))
        parents = {code: tuple(names) for code, names in plain["parents"].items()}
        return cls(tuple(entries), plain["clip"], Hierarchy(plain["fallback"], parents), plain["text_values"])


@dataclass(frozen=True)
class Limits:
    """Mends known mix-ups of units and finds what is outside the limits, for K codes.

    Attributes:
        low: (K,) lowest plausible values.
        high: (K,) highest.
        mended: (K,) whether there are repairs.
        repairs: By position.
    """

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    mended: NDArray[np.bool_]
    repairs: dict[int, tuple[Repair, ...]]

    @classmethod
    def of(cls, entries: Sequence[CodeEntry]) -> "Limits":
        """Of a vocabulary."""
        low = np.array([-np.inf if item.low is None else item.low for item in entries])
        high = np.array([np.inf if item.high is None else item.high for item in entries])
        # float32 on disk: a value written as the limit itself must pass.
        with np.errstate(invalid="ignore"):
            low, high = low - 1e-6 * np.abs(low), high + 1e-6 * np.abs(high)
        repairs = {index: item.repairs for index, item in enumerate(entries) if item.repairs}
        return cls(low, high, np.array([bool(item.repairs) for item in entries], bool), repairs)

    def clean(
        self, entry: NDArray[np.integer[Any]], value: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
        """Mend and judge values.

        Args:
            entry: (E,) positions among the K codes.
            value: (E,) raw values; NaN where there is none.

        Returns:
            (values (E,), keep (E,), repaired (E,)).
        """
        repaired = np.zeros(len(value), bool)
        mended = value
        if self.repairs:
            mended = value.copy()
            candidates = np.flatnonzero(self.mended.take(entry, mode=_UNCHECKED))
            which, raw = entry.take(candidates), value.take(candidates)
            for index, repairs in self.repairs.items():
                mine = which == index
                for repair in repairs:
                    # Judged by the raw value, so that one repair never sets off the next.
                    hit = candidates[np.flatnonzero(mine & (raw >= repair.low) & (raw <= repair.high))]
                    mended[hit] = value[hit] * repair.scale + repair.offset
                    repaired[hit] = True
        keep = np.ones(len(value), bool)
        if np.isfinite(self.low).any() or np.isfinite(self.high).any():
            keep = mended < self.low.take(entry, mode=_UNCHECKED)
            keep |= mended > self.high.take(entry, mode=_UNCHECKED)
            np.logical_not(keep, out=keep)
        return mended, keep, repaired
