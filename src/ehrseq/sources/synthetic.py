"""The embedded default data: irregular intensive-care sequences with a planted risk rule.

Everything about a subject is a pure function of (seed, block of `BLOCK` subjects), so the first 1,000 of a million
subjects
are the same as of ten thousand, whatever the shards. Latent severity drives values, how often is measured (missingness
that depends on severity), medications and diagnoses; the outcome is drawn from the rule alone (`synthetic_rule`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ehrseq.files import write_json
from ehrseq.meds import schema, write
from ehrseq.sources.base import Progress, Source
from ehrseq.sources.synthetic_codes import ADMISSIONS, AGE, HAPPENINGS, MEASUREMENTS, SEXES, Happening, Measurement
from ehrseq.sources.synthetic_rule import RULE, evaluate_rule, rule_as_json

TASK = "in_hospital_mortality"
VERSION = 1  # raised when the same seed would give other data
BLOCK = 4096
FIRST_SUBJECT = 1_000_001
_SHARD = 8 * BLOCK
_MINUTE = 60_000_000
_START = int((datetime(2020, 1, 1) - datetime(1970, 1, 1)).total_seconds()) * 1_000_000
_IMPLAUSIBLE = 0.003  # share of values of codes outside the rule that are written wrongly
_SPIKES = 0.45  # share of subjects with a spike, for each code that has spikes
_SPIKE_HOURS = 10.0

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class SyntheticShard:
    """Some subjects.

    Attributes:
        events: MEDS events, sorted by subject, statics first, then time.
        labels: MEDS labels with `boolean_value`.
        scores: The true risk of each history, see `evaluate_rule`.
        planted: The events that make the risk, see `evaluate_rule`.
    """

    events: pl.DataFrame
    labels: pl.DataFrame
    scores: pl.DataFrame
    planted: pl.DataFrame


@dataclass(frozen=True)
class _Stays:
    """Latent facts of a block's subjects, (N,) each; hours count from admission."""

    subject: Ints
    admission: Ints
    hours: Floats
    severity: Floats
    drift: Floats
    crisis: Floats

    def severity_at(self, row: Ints, hour: Floats) -> Floats:
        """Severity over time: a start, a drift, and a crisis of some hours."""
        distance = (hour - self.crisis[row] * self.hours[row]) / 5.0
        return self.severity[row] + self.drift[row] * hour / self.hours[row] + 0.8 * np.exp(-(distance**2))


@dataclass(frozen=True)
class SyntheticSource(Source):
    """The synthetic source.

    Attributes:
        n_subjects: How many.
        seed: Another seed gives other subjects.
    """

    n_subjects: int
    seed: int = 0

    name = "synthetic"

    def fingerprint(self) -> dict[str, Any]:
        """Arguments and version of the generator."""
        return {"adapter": self.name, "version": VERSION, "n_subjects": self.n_subjects, "seed": self.seed}

    def write(self, root: Path, progress: Progress | None = None) -> dict[str, int]:
        """Write the MEDS dataset, and `ground_truth/` beside it; see `Source.write`."""
        counts = dict.fromkeys(("subjects", "events", "labels", "positive_labels"), 0)
        folders = {
            "data": root / schema.DATA,
            "labels": root / schema.LABELS / TASK,
            "scores": root / "ground_truth" / "scores",
            "planted": root / "ground_truth" / "events",
        }
        for folder in folders.values():
            folder.mkdir(parents=True)
        for number, first in enumerate(range(0, self.n_subjects, _SHARD)):
            shard = generate(first, min(_SHARD, self.n_subjects - first), self.seed)
            name = f"{number:04d}.parquet"
            write.write_events(shard.events, folders["data"] / name)
            write.write_labels(shard.labels, folders["labels"] / name)
            shard.scores.write_parquet(folders["scores"] / name)
            shard.planted.write_parquet(folders["planted"] / name)
            counts["subjects"] += shard.labels.height
            counts["events"] += shard.events.height
            counts["labels"] += shard.labels.height
            counts["positive_labels"] += int(shard.labels[schema.BOOLEAN_VALUE].sum())
            if progress:
                progress(counts["subjects"], self.n_subjects)
        write_json(root / "ground_truth" / "rule.json", rule_as_json())
        (root / schema.METADATA).mkdir()
        write.write_codes(code_table(), root / schema.CODES_FILE)
        write.write_dataset_json(
            root / schema.DATASET_FILE, dataset_name="ehrseq synthetic", dataset_version=str(VERSION)
        )
        return counts


def generate(first: int, count: int, seed: int) -> SyntheticShard:
    """Make the subjects number `first` to `first + count - 1` (from 0).

    Args:
        first: Number of the first subject.
        count: How many.
        seed: Of the whole dataset.
    """
    blocks = range(first // BLOCK, -(-(first + count) // BLOCK))
    events, labels = zip(*(_block(block, seed) for block in blocks), strict=True)
    wanted = pl.col(schema.SUBJECT_ID).is_between(FIRST_SUBJECT + first, FIRST_SUBJECT + first + count - 1)
    all_events, all_labels = pl.concat(events).filter(wanted), pl.concat(labels).filter(wanted)
    scores, planted = evaluate_rule(all_events, all_labels)
    # The outcome is drawn from the rule, from a number that belongs to the subject.
    outcome = all_labels["draw"] < scores["probability"]
    return SyntheticShard(
        all_events, all_labels.drop("draw").with_columns(outcome.alias(schema.BOOLEAN_VALUE)), scores, planted
    )


def _block(block: int, seed: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Events and (label times, uniform draw) of one block of subjects."""
    random = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, block])))
    hours = np.clip(np.exp(random.normal(np.log(40), 0.45, BLOCK)), 12, 72)
    hours = np.where(random.random(BLOCK) < 0.01, random.uniform(0.5, 3, BLOCK), hours)
    hours = np.ceil(hours * 60) / 60  # whole minutes
    stays = _Stays(
        subject=FIRST_SUBJECT + block * BLOCK + np.arange(BLOCK),
        admission=_START + random.integers(0, 365 * 24 * 60, BLOCK) * _MINUTE,
        hours=hours,
        severity=random.normal(0, 0.8, BLOCK),
        drift=random.normal(0, 0.5, BLOCK),
        crisis=random.random(BLOCK),
    )
    parts = [*_statics(stays, random)]
    parts += [_measure(stays, item, random) for item in MEASUREMENTS]
    parts += [_happen(stays, item, random) for item in HAPPENINGS]
    events = (
        pl.concat(parts).with_row_index("row").sort(schema.SUBJECT_ID, schema.TIME, "row", nulls_last=False).drop("row")
    )
    end = stays.admission + np.round(stays.hours * 60).astype(np.int64) * _MINUTE
    labels = pl.DataFrame(
        {
            schema.SUBJECT_ID: stays.subject,
            schema.PREDICTION_TIME: pl.Series(end).cast(pl.Datetime("us")),
            "draw": random.random(BLOCK),
        }
    )
    return events, labels


def _frame(stays: _Stays, row: Ints, hour: Floats | None, code: str, value: Floats | None) -> pl.DataFrame:
    """Events of one code; no hour makes them static."""
    time = None
    if hour is not None:
        time = stays.admission[row] + np.floor(hour * 60).astype(np.int64) * _MINUTE
    return pl.DataFrame(
        {
            schema.SUBJECT_ID: stays.subject[row],
            schema.TIME: pl.Series(time if time is not None else [None] * len(row), dtype=pl.Int64).cast(
                pl.Datetime("us")
            ),
            schema.CODE: pl.Series([code]).new_from_index(0, len(row)),
            schema.NUMERIC_VALUE: pl.Series(value if value is not None else [None] * len(row), dtype=pl.Float64).cast(
                pl.Float32
            ),
        }
    )


def _statics(stays: _Stays, random: np.random.Generator) -> Iterator[pl.DataFrame]:
    everybody = np.arange(BLOCK)
    yield _frame(stays, everybody, None, AGE, np.clip(np.round(random.normal(63, 16, BLOCK)), 18, 95))
    for options, shares in ((SEXES, [0.46, 0.54]), (ADMISSIONS, [0.6, 0.25, 0.15])):
        choice = random.choice(len(options), BLOCK, p=shares)
        for index, (code, _) in enumerate(options):
            yield _frame(stays, np.flatnonzero(choice == index), None, code, None)


def _measure(stays: _Stays, item: Measurement, random: np.random.Generator) -> pl.DataFrame:
    """All measurements of one code."""
    # The sicker, the more often: what is missing tells something.
    rate = item.per_hour * np.exp(0.3 * stays.severity)
    row = np.repeat(np.arange(BLOCK), random.poisson(rate * stays.hours))
    hour = random.random(len(row)) * stays.hours[row]
    value = item.base + item.load * stays.severity_at(row, hour)
    value = value + item.spread * random.normal(size=BLOCK)[row] + item.noise * random.normal(size=len(row))
    if item.spike:
        # Anywhere in the stay: most spikes are too old to matter for the outcome.
        start = np.where(random.random(BLOCK) < _SPIKES, random.random(BLOCK) * stays.hours, np.inf)
        value += item.spike * ((hour >= start[row]) & (hour < start[row] + _SPIKE_HOURS))
    value = np.asarray(np.round(np.clip(value, item.low, item.high), item.decimals), np.float64)
    if all(condition.code != item.code for condition in RULE):
        wrong = random.random(len(row)) < _IMPLAUSIBLE
        # A temperature in Fahrenheit; for everything else the sensor that fell off.
        value = np.where(wrong, np.round(value * 1.8 + 32, 1) if "temperature" in item.code else 0.0, value)
    return _frame(stays, row, hour, item.code, value)


def _happen(stays: _Stays, item: Happening, random: np.random.Generator) -> pl.DataFrame:
    """All events of one medication or diagnosis."""
    chance = item.share * np.exp(item.load * stays.severity)
    start = random.random(BLOCK) * stays.hours
    first = np.flatnonzero(random.random(BLOCK) < chance)
    repeats = random.poisson(item.repeats, len(first))
    row = np.repeat(first, 1 + repeats)
    # Repeats follow at intervals of about three hours, as far as the stay goes.
    number = np.arange(len(row)) - np.repeat(np.cumsum(1 + repeats) - 1 - repeats, 1 + repeats)
    hour = start[row] + number * random.uniform(2, 4, len(row))
    inside = hour <= stays.hours[row]
    row, hour = row[inside], hour[inside]
    dose = np.round(item.dose * random.lognormal(0, 0.4, len(row)), 2) if item.dose else None
    return _frame(stays, row, hour, item.code, dose)


def code_table() -> pl.DataFrame:
    """Codes with description, unit and plausible limits."""
    fahrenheit = [{"low": 82.4, "high": 109.4, "scale": 5 / 9, "offset": -160 / 9}]
    rows: list[dict[str, Any]] = [
        {
            "code": item.code,
            "description": item.description,
            "unit": item.code.rpartition("//")[2],
            "low": item.low,
            "high": item.high,
            "repairs": fahrenheit if "temperature" in item.code else [],
        }
        for item in MEASUREMENTS
    ]
    rows += [{"code": item.code, "description": item.description} for item in HAPPENINGS]
    rows += [{"code": code, "description": text} for code, text in (*SEXES, *ADMISSIONS, (AGE, "Age at admission"))]
    full = [{"unit": None, "low": None, "high": None, "repairs": [], **row} for row in rows]
    return pl.DataFrame(full, schema_overrides=schema.CODE_COLUMNS, strict=False).sort("code")
