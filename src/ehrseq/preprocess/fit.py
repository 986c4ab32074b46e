"""Fitting vocabulary and normaliser on the histories of `train` subjects, and on nothing else."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ehrseq.config.schema import Preprocess
from ehrseq.errors import DataError
from ehrseq.meds import schema
from ehrseq.preprocess.fitted import UNKNOWN, CodeEntry, Limits, Preprocessor, Repair, signed_log
from ehrseq.preprocess.hierarchy import Hierarchy
from ehrseq.preprocess.histories import HistoryReader
from ehrseq.preprocess.statistics import Cleaner, Key, Statistics, gather, merge

# Quartile distance of a normal distribution with standard deviation one.
_NORMAL_IQR = 1.3489795003921634
_SKEWNESS = 1.5
# Quantiles come from a seeded sample of subjects where train has more events than this: memory stays bounded.
_SAMPLED_EVENTS = 20_000_000
_KNOTS = 65

Facts = dict[str, dict[str, Any]]


def read_facts(dataset: Path, config: Preprocess) -> Facts:
    """Limits, repairs and units by code, as far as the source knows and the configuration wants them."""
    path = dataset / schema.CODES_FILE
    if not path.is_file():
        return {}
    facts: Facts = {}
    table = pl.read_parquet(path)
    known = [name for name in ("unit", "low", "high", "repairs") if name in table.columns]
    for row in table.select("code", *known).iter_rows(named=True) if known else ():
        repairs = tuple(Repair(**repair) for repair in row.get("repairs") or ())
        facts[row["code"]] = {
            "unit": row.get("unit"),
            "low": row.get("low") if config.limits else None,
            "high": row.get("high") if config.limits else None,
            "repairs": repairs if config.repairs else (),
        }
    return facts


def gather_shard(
    path: Path, reader: HistoryReader, train: NDArray[np.int64], facts: Facts, config: Preprocess, rows: int
) -> tuple[Statistics, int]:
    """Statistics of one shard's train subjects, and how many timed events all its histories hold.

    Args:
        path: The shard.
        reader: Reads it.
        train: Ids of those of `train`, sorted.
        facts: From `read_facts`.
        config: How.
        rows: Events of the whole dataset, which decide how many values are kept for quantiles.
    """
    few = config.min_subjects if config.fallback != "none" else 0
    share = min(1.0, _SAMPLED_EVENTS / max(rows, 1)) if config.normaliser in ("robust", "quantile") else 0.0
    clean = _cleaner(facts)
    parts, events = [], 0
    for history in reader.read(path):
        events += len(history.code) - int(np.count_nonzero(history.static))
        parts.append(gather(history.only(train), clean, few, share, config.log == "auto"))
    return merge(parts), events


def fit(statistics: Statistics, hierarchy: Hierarchy, facts: Facts, subjects: int, config: Preprocess) -> Preprocessor:
    """Choose the vocabulary and fit the normaliser.

    Args:
        statistics: Of all `train` histories.
        hierarchy: Where rare codes fall back to.
        facts: From `read_facts`.
        subjects: Number of train subjects, for the message.
        config: How.

    Raises:
        DataError: If no timed code is frequent enough.
    """
    chosen = {key: row for row, key in enumerate(statistics.keys) if statistics.subjects[row] >= config.min_subjects}
    entries = [_entry(key, row, statistics, facts, config) for key, row in chosen.items()]
    entries += _fallbacks(statistics, chosen, hierarchy, config)
    entries.sort(key=lambda entry: (entry.static, entry.code))
    if all(entry.static for entry in entries):
        raise DataError(
            f"no code with a time is seen in {config.min_subjects} or more of the {subjects} train subjects; "
            "lower preprocess.min_subjects or give more data"
        )
    if config.unknown == "code":
        entries.append(CodeEntry(UNKNOWN, False, False))
        entries.sort(key=lambda entry: (entry.static, entry.code))
    return Preprocessor(tuple(entries), config.clip, hierarchy, config.text_values == "categories")


def _entry(key: Key, row: int, statistics: Statistics, facts: Facts, config: Preprocess) -> CodeEntry:
    """One code with its normaliser."""
    static, code = key
    plain, count = statistics.plain, statistics.plain.count[row]
    log = bool(
        config.log == "auto"
        and count
        and _tail_away_from_zero(statistics, row)
        and config.normaliser != "quantile"  # has a scale of its own
    )
    moments = statistics.log if log else plain
    center, scale, knots = 0.0, 1.0, ()
    if count and config.normaliser != "none":
        center, scale = float(moments.mean[row]), float(moments.deviation[row]) or 1.0
        sample = statistics.sample.get(key)
        if config.normaliser == "robust" and sample is not None:
            value = signed_log(sample.astype(np.float64)) if log else sample.astype(np.float64)
            low, middle, high = np.quantile(value, [0.25, 0.5, 0.75])
            # More than half of the values may be equal (a coma score of 15): the quartiles then say nothing of the
            # spread.
            center, scale = float(middle), float(high - low) / _NORMAL_IQR or scale
        elif config.normaliser == "quantile" and sample is not None:
            knots = tuple(np.quantile(sample.astype(np.float64), np.linspace(0, 1, _KNOTS)).tolist())
    return CodeEntry(
        code=code,
        static=static,
        numeric=bool(count),
        log=log,
        center=center,
        scale=scale,
        quantiles=knots,
        subjects=int(statistics.subjects[row]),
        events=int(statistics.events[row]),
        **facts.get(code, {}),
    )


def _tail_away_from_zero(statistics: Statistics, row: int) -> bool:
    """Whether all values lie on one side of 0, and few of them far from it."""
    skewness = statistics.plain.skewness[row]
    above = not statistics.negative[row] and skewness > _SKEWNESS
    below = not statistics.positive[row] and skewness < -_SKEWNESS
    return bool(above or below)


def _fallbacks(
    statistics: Statistics, chosen: dict[Key, int], hierarchy: Hierarchy, config: Preprocess
) -> list[CodeEntry]:
    """Entries for ancestors that enough subjects have through codes too rare for an entry of their own.

    The most specific ancestors come first, and a code counts for one of them only. Values are not kept: those of
    different codes have nothing in common.
    """
    waiting: dict[Key, list[Key]] = {}  # ancestor to rare codes
    distance: dict[Key, int] = {}
    events = {key: int(statistics.events[row]) for row, key in enumerate(statistics.keys)}
    for key in statistics.keys:
        if key not in chosen:
            for steps, name in enumerate(hierarchy.ancestors(key[1])):
                ancestor = (key[0], name)
                waiting.setdefault(ancestor, []).append(key)
                distance[ancestor] = max(distance.get(ancestor, 0), steps)
    resolved: set[Key] = set()
    entries = []
    for ancestor in sorted(waiting, key=lambda key: (distance[key], key)):
        members = [key for key in waiting[ancestor] if key not in resolved]
        subjects: set[int] = set().union(*(statistics.rare.get(key, ()) for key in members))
        if ancestor in chosen:
            resolved.update(members)
        elif len(subjects) >= config.min_subjects:
            resolved.update(members)
            count = sum(events[key] for key in members)
            entries.append(CodeEntry(ancestor[1], ancestor[0], False, subjects=len(subjects), events=count))
    return entries


def _cleaner(facts: Facts) -> Cleaner:
    """Repairs and limits for codes by name."""
    entries: list[CodeEntry] = []  # grows with the codes of a shard
    limits = Limits.of(entries)

    def clean_by_name(
        codes: Sequence[str], number: NDArray[np.int64], value: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        nonlocal limits
        if not facts:
            return value, np.ones(len(value), bool)
        if len(codes) > len(entries):
            entries.extend(CodeEntry(code, False, True, **facts.get(code, {})) for code in codes[len(entries) :])
            limits = Limits.of(entries)
        mended, keep, _ = limits.clean(number, value)
        return mended, keep

    return clean_by_name
