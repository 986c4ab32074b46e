"""One person's history explained: risk over time, what each event contributes, what the risk would be without it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from ehrseq.data import Representation
from ehrseq.data.batch import SequenceBatch
from ehrseq.explain.base import Explainer
from ehrseq.explain.histories import Histories
from ehrseq.explain.registry import cut_histories
from ehrseq.explain.weights import Attention, has_attention
from ehrseq.nn import SequenceModel
from ehrseq.preprocess import Preprocessor
from ehrseq.store import Store

_POINTS = 200  # of the risk over time
_TOP = 10  # events told in words


@dataclass(frozen=True)
class Person:
    """What one history's pictures show.

    Attributes:
        explainer: Whose contributions these are.
        risk: At prediction.
        path: `hours` before prediction and the `risk` as it was then, oldest first.
        events: A row an event, in the order of time, statics last: `part` (events of one code in one step share one),
            `hours` (null for statics), `code`, `value` (in the unit of the code; null where there is none), `deviation`
            (normalised), `contribution` (of the part, shared by its events).
        top: A row a part, those that contribute most: `part`, `hours`, `code`, `value`, `events`, `contribution` and
            `risk_without`.
        attention: `hours`, `attention` of each step, where the network has any.
    """

    explainer: str
    risk: float
    path: pl.DataFrame
    events: pl.DataFrame
    top: pl.DataFrame
    attention: pl.DataFrame | None


@dataclass(frozen=True)
class Glossary:
    """What codes mean, for people.

    Attributes:
        descriptions: By code, where known.
        units: By code, where known.
    """

    descriptions: Mapping[str, str]
    units: Mapping[str, str]

    @classmethod
    def of(cls, preprocessor: Preprocessor, codes: pl.DataFrame | None) -> "Glossary":
        """From the vocabulary and the code table of a dataset, `code` and `description`."""
        units = {entry.code: entry.unit for entry in preprocessor.entries if entry.unit}
        if codes is None or "description" not in codes.columns:
            return cls({}, units)
        rows = codes.select("code", "description").drop_nulls().iter_rows()
        return cls(dict(rows), units)

    def name(self, code: str) -> str:
        """What a code is called."""
        return self.descriptions.get(code) or code.replace("//", " / ").replace("_", " ")

    def amount(self, code: str, value: float | None) -> str:
        """A value with its unit; nothing where there is none."""
        if value is None or np.isnan(value):
            return ""
        unit = self.units.get(code)
        return f" {value:.4g}{'' if unit == '%' else ' '}{unit}" if unit else f" {value:.4g}"


def explain_person(
    explainer: Explainer, representation: Representation, preprocessor: Preprocessor, sample: int, device: torch.device
) -> Person:
    """Explain one history.

    Args:
        explainer: What tells what parts contribute.
        representation: Cuts the history.
        preprocessor: Gives values back in their units.
        sample: Its number.
        device: Where to run.
    """
    model = explainer.model
    histories = cut_histories(representation, np.array([sample])).to(device)
    found = explainer.attribute(histories)
    parts = found.parts[0].double().cpu().numpy()
    events = pl.concat(
        [
            _timed(histories, representation.store, preprocessor, parts),
            _static(histories, representation.store, preprocessor, parts),
        ]
    )
    grouped = events.group_by("part", maintain_order=True).agg(
        pl.col("hours", "code").last(), pl.col("value").mean(), pl.len().alias("events"), pl.col("contribution").sum()
    )
    order = pl.col("contribution").abs()
    top = grouped.sort(order, "part", descending=[True, False]).head(_TOP)
    risk = float(_risk(model, histories.batch)[0])
    top = top.with_columns(
        pl.Series("risk_without", _without(model, histories, top["part"].to_numpy()), dtype=pl.Float64)
    )
    attention = None
    if has_attention(model):
        steps = Attention(model).attribute(histories).steps
        assert steps is not None
        columns = {"hours": histories.batch.hours_before[0], "attention": steps[0]}
        attention = pl.DataFrame({name: column.double().cpu().numpy() for name, column in columns.items()})
    return Person(explainer.name, risk, _path(model, histories), events, top, attention)


@torch.no_grad()
def _risk(model: SequenceModel, batch: SequenceBatch) -> NDArray[np.float64]:
    found: NDArray[np.float64] = model.objective.risk(model(batch).output.double()).cpu().numpy()
    return found


def _without(model: SequenceModel, histories: Histories, parts: NDArray[np.int64]) -> NDArray[np.float64]:
    """The risk without each of some parts of one history."""
    copies = histories.take(torch.zeros(len(parts), dtype=torch.int64, device=histories.present.device))
    gone = torch.zeros_like(copies.present)
    gone[torch.arange(len(parts)), torch.tensor(parts)] = True
    return _risk(model, copies.without(gone))


def _path(model: SequenceModel, histories: Histories) -> pl.DataFrame:
    """The risk at the end of each step, from what had come by then, as if predicted then."""
    length = int(histories.batch.lengths[0])
    ends = torch.unique(torch.linspace(1, length, min(length, _POINTS)).round().long())
    before = histories.batch.hours_before[0, ends - 1]
    risks = []
    for end in ends.to(before.device).split(64):
        copies = histories.take(torch.zeros_like(end)).batch
        now = copies.hours_before.gather(1, (end - 1)[:, None])
        then = replace(copies, lengths=end, hours_before=(copies.hours_before - now).clamp(min=0))
        risks.append(_risk(model, then))
    hours, risk = before.double().cpu().numpy(), np.concatenate(risks)
    if hours[-1] > 0:  # what happened last was before the prediction
        hours, risk = np.append(hours, 0.0), np.append(risk, _risk(model, histories.batch))
    return pl.DataFrame({"hours": hours, "risk": risk})


def _timed(histories: Histories, store: Store, preprocessor: Preprocessor, parts: NDArray[np.float64]) -> pl.DataFrame:
    links, arrays = histories.links, store.arrays
    sample = int(histories.batch.samples[0])
    code, deviation = arrays.code[links.event], arrays.value[links.event].astype(np.float64)
    value = preprocessor.restore(code, deviation) if len(code) else deviation
    count = np.bincount(links.part, minlength=len(parts))
    age = (arrays.sample_time[sample] - arrays.time[links.event]) / 3.6e9
    return pl.DataFrame(
        {
            "part": links.part,
            "hours": pl.Series(age, dtype=pl.Float64),
            "code": pl.Series([store.codes[number] for number in code], dtype=pl.String),
            "value": pl.Series(value, nan_to_null=True, dtype=pl.Float64),
            "deviation": pl.Series(deviation, nan_to_null=True, dtype=pl.Float64),
            "contribution": parts[links.part] / np.maximum(count[links.part], 1),
        }
    )


def _static(histories: Histories, store: Store, preprocessor: Preprocessor, parts: NDArray[np.float64]) -> pl.DataFrame:
    names, features = histories.statics.names, store.statics
    own = histories.batch.statics[0].double().cpu().numpy()
    entries = {entry.code: number for number, entry in enumerate(preprocessor.entries) if entry.static}
    rows = []
    for number in np.flatnonzero(histories.present[0, histories.timed :].cpu().numpy()):
        name, part = names[number], histories.timed + int(number)
        deviation = value = None
        if f"{name} (value)" in features:
            deviation = float(own[features.index(f"{name} (value)")])
            value = float(preprocessor.restore(np.array([entries[name]]), np.array([deviation]))[0])
        rows.append((part, None, name, value, deviation, float(parts[part])))
    types = {"part": pl.Int64, "hours": pl.Float64, "code": pl.String}
    return pl.DataFrame(
        rows, schema={**types, **dict.fromkeys(("value", "deviation", "contribution"), pl.Float64)}, orient="row"
    )


def in_words(person: Person, glossary: Glossary) -> list[str]:
    """The events that contribute most, a sentence each."""
    told = []
    for row in person.top.iter_rows(named=True):
        several = f" (mean of {row['events']})" if row["events"] > 1 and row["value"] is not None else ""
        what = f"{glossary.name(row['code'])}{glossary.amount(row['code'], row['value'])}{several}"
        when = "" if row["hours"] is None else f", {ago(row['hours'])} before prediction"
        way = "raises" if row["contribution"] > 0 else "lowers"
        told.append(
            f"{what}{when}: {way} the score by {abs(row['contribution']):.2f}; "
            f"without it the risk would be {row['risk_without']:.1%} in place of {person.risk:.1%}"
        )
    return told


def ago(hours: float) -> str:
    """A stretch of time for people."""
    if hours < 1:
        return f"{hours * 60:.0f} min"
    if hours < 72:
        return f"{hours:.0f} h"
    return f"{hours / 24:.0f} days" if hours < 24 * 730 else f"{hours / 24 / 365.25:.0f} years"
