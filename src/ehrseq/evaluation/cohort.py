"""Who was studied: the way from records to predictions, Table 1, what was measured in whom. Small cells are hidden."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ehrseq.config.targets import Target
from ehrseq.evaluation.findings import Findings
from ehrseq.evaluation.statics import AGE, Statics, ages
from ehrseq.meds import schema
from ehrseq.metrics.disclosure import hide_small, visible_steps
from ehrseq.store import Store
from ehrseq.store.format import HOUR, SPLIT_CODES
from ehrseq.store.search import numbers_between

_CODES = 40  # of which missingness is told
_HISTORIES = 20_000  # of which it is counted at once


def describe_cohort(
    store: Store,
    statics: Statics,
    attrition: Sequence[tuple[str, int]],
    target: Target,
    split: str,
    minimum: int,
) -> Findings:
    """Tables `attrition`, `table1` and `missingness`."""
    tables = {"table1": table_one(store, statics, target, minimum), "missingness": missingness(store, split, minimum)}
    everybody = [
        ("subjects in the data", len(store.arrays.subject_id)),
        ("subjects with a prediction", len(np.unique(store.arrays.sample_subject))),
    ]
    return Findings({}, tables | {"attrition": attrition_table(attrition or everybody, minimum)})


def attrition_table(steps: Sequence[tuple[str, int]], minimum: int) -> pl.DataFrame:
    """How many were left after each step; null where it would tell how few were left out."""
    counts = [count for _, count in steps]
    shown = visible_steps(counts, minimum)
    left = [count if ok else None for count, ok in zip(counts, shown, strict=True)]
    lost = [None if a is None or b is None else a - b for a, b in pairwise(left)]
    return pl.DataFrame(
        {"step": [step for step, _ in steps], "left": left, "left_out": [None, *lost] if steps else []},
        schema={"step": pl.String, "left": pl.Int64, "left_out": pl.Int64},
    )


def table_one(store: Store, statics: Statics, target: Target, minimum: int) -> pl.DataFrame:
    """Characteristics of the subjects of each split, in words: counts with shares, means with standard deviations.

    No medians and no extremes: those are values of single persons.
    """
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for split in SPLIT_CODES:
        for key, words in _characteristics(store, statics, target, split, minimum).items():
            rows.setdefault(key, {})[split] = words
    return pl.DataFrame(
        [
            {"characteristic": name, "category": category, **{split: own.get(split, "0") for split in SPLIT_CODES}}
            for (name, category), own in rows.items()
        ]
    )


def _characteristics(
    store: Store, statics: Statics, target: Target, split: str, minimum: int
) -> dict[tuple[str, str], str]:
    samples = store.samples(split)
    subject, time = store.subjects_of(samples), store.arrays.sample_time[samples]
    # The first prediction of each subject stands for it.
    people, first = np.unique(subject, return_index=True)
    found = {("subjects", ""): f"{len(people):,}", ("predictions", ""): f"{len(samples):,}"}
    if target.kind in ("binary", "several") and store.arrays.sample_label.shape[1]:
        positive = np.unique(subject[store.arrays.sample_label[samples, 0] == 1])
        cells = np.array([len(positive), len(people) - len(positive)])
        found["subjects with the outcome", ""] = _share(cells, minimum)[0]
    age = ages(statics, people, time[first])
    if age is not None:
        found["age, years", "mean (SD)"] = _mean(age, minimum)
    for name, frame in statics.numbers.items():
        if name.lower() != AGE:
            values = frame.filter(pl.col(schema.SUBJECT_ID).is_in(people.tolist()))["value"].to_numpy()
            found[name, "mean (SD)"] = _mean(values, minimum)
    for name, frame in statics.categories.items():
        own = frame.filter(pl.col(schema.SUBJECT_ID).is_in(people.tolist()))["value"]
        everything = sorted(frame["value"].unique().to_list())
        counts = [int((own == category).sum()) for category in everything]
        cells = np.array([*counts, len(people) - sum(counts)])
        for category, words in zip([*everything, "unknown"], _share(cells, minimum), strict=True):
            if category != "unknown" or cells[-1]:
                found[name, category] = words
    # All that is known of a subject is the history of its last prediction.
    last = samples[_last(subject)]
    begin, end = store.arrays.sample_begin[last], store.arrays.sample_end[last]
    found["history, hours", "mean (SD)"] = _mean(history_hours(store, last), minimum)
    found["history, events", "mean (SD)"] = _mean((end - begin).astype(np.float64), minimum)
    return found


def history_hours(store: Store, samples: NDArray[np.int64]) -> NDArray[np.float64]:
    """Hours from the first event of each history to its prediction, (M,); 0 where there is none."""
    arrays = store.arrays
    begin, end = arrays.sample_begin[samples], arrays.sample_end[samples]
    some = begin < end
    hours = np.zeros(len(samples))
    hours[some] = (arrays.sample_time[samples][some] - arrays.time[begin[some]]) / HOUR
    return hours


def missingness(store: Store, split: str, minimum: int) -> pl.DataFrame:
    """In what share of subjects the commonest codes occur, up to their last prediction, commonest first.

    Where fewer than `minimum` have a code, or lack it, that share stands in its place, and `bound` is true.
    """
    samples = store.samples(split)
    subject = store.arrays.sample_subject[samples]
    samples = samples[_last(subject)]
    having, events = np.zeros(len(store.codes), np.int64), np.zeros(len(store.codes), np.int64)
    for start in range(0, len(samples), _HISTORIES):
        part = samples[start : start + _HISTORIES]
        begin, end = store.arrays.sample_begin[part], store.arrays.sample_end[part]
        code = store.arrays.code[numbers_between(begin, end)].astype(np.int64)
        row = np.repeat(np.arange(len(part)), end - begin)
        having += np.bincount(np.unique(row * len(store.codes) + code) % len(store.codes), minlength=len(having))
        events += np.bincount(code, minlength=len(events))
    count = len(samples)
    order = np.argsort(-having, kind="stable")[:_CODES]
    bound = [bool(hide_small(np.array([[having[k]], [count - having[k]]]), minimum).any()) for k in order]
    told = [min(max(int(having[k]), min(minimum, count)), max(count - minimum, 0)) if hide else int(having[k])
            for k, hide in zip(order, bound, strict=True)]  # fmt: skip
    return pl.DataFrame(
        {
            "code": [store.codes[k] for k in order],
            "numeric": [store.numeric[k] for k in order],
            "measured": [part / count for part in told],
            "bound": bound,
            "events_a_subject": [events[k] / having[k] if having[k] >= minimum else None for k in order],
        },
        schema={
            "code": pl.String,
            "numeric": pl.Boolean,
            "measured": pl.Float64,
            "bound": pl.Boolean,
            "events_a_subject": pl.Float64,
        },
    )


def _last(subject: NDArray[np.generic]) -> NDArray[np.int64]:
    """The places of each subject's last prediction, of (M,) that lie by subject and time."""
    return np.append(np.flatnonzero(subject[1:] != subject[:-1]), len(subject) - 1) if len(subject) else np.arange(0)


def _share(cells: NDArray[np.int64], minimum: int) -> list[str]:
    """Counts with their share; hidden ones say no more than that."""
    hidden = hide_small(cells[:, None], minimum)
    total = max(int(cells.sum()), 1)
    return [
        "hidden" if hide else f"{count:,} ({count / total:.1%})"
        for count, hide in zip(cells.tolist(), hidden.tolist(), strict=True)
    ]


def _mean(values: NDArray[Any], minimum: int) -> str:
    known = values[~np.isnan(values)].astype(np.float64)
    if len(known) < max(minimum, 2):
        return "hidden" if len(known) else "unknown"
    return f"{known.mean():,.1f} ({known.std(ddof=1):,.1f})"
