"""What matters in a cohort: codes, times, values, and for whom."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from ehrseq.data import Representation
from ehrseq.explain.base import Attribution, Explainer
from ehrseq.explain.histories import Histories
from ehrseq.explain.judge import CHUNK
from ehrseq.explain.registry import cut_histories
from ehrseq.metrics.intervals import Draws

SMALLEST = 11  # histories, so that nobody can be singled out
_EDGES = (0, 1, 2, 4, 6, 12, 18, 24, 36, 48, 72, 96, 24 * 7, 24 * 14, 24 * 30, 24 * 90, 24 * 365, np.inf)
_LEVELS = 8  # groups of values of a dependence curve
Floats = NDArray[np.float64]


def explained(
    explainers: Sequence[Explainer],
    representation: Representation,
    samples: NDArray[np.int64],
    device: torch.device,
    each: Callable[[], None] = lambda: None,
) -> Iterator[tuple[Histories, dict[str, Attribution]]]:
    """Explain histories, a chunk at a time.

    Args:
        explainers: Of one network.
        representation: Cuts the histories.
        samples: (N,) sample numbers.
        device: Where to run.
        each: Called after each chunk.
    """
    for start in range(0, len(samples), CHUNK):
        histories = cut_histories(representation, samples[start : start + CHUNK]).to(device)
        yield histories, {explainer.name: explainer.attribute(histories) for explainer in explainers}
        each()


@dataclass
class Cohort:
    """Sums over the parts of each history, filled chunk by chunk.

    Attributes:
        codes: Names of all codes, static ones last.
        timed: How many of them are not static.
        by_code: For each explainer (N, C) what each code's parts weigh in each history, and (N, C) with their signs.
        by_time: For each explainer (N, K) what each stretch of time weighs.
        has: (N, C) which codes each history has.
        reach: (N, K) which stretches of time each history reaches into.
        values: Of single parts, for dependence curves: history, code, normalised value, contribution.
    """

    codes: tuple[str, ...]
    timed: int
    by_code: dict[str, list[tuple[Floats, Floats]]] = field(default_factory=dict)
    by_time: dict[str, list[Floats]] = field(default_factory=dict)
    has: list[NDArray[np.bool_]] = field(default_factory=list)
    reach: list[NDArray[np.bool_]] = field(default_factory=list)
    values: list[pl.DataFrame] = field(default_factory=list)

    def add(self, histories: Histories, found: dict[str, Attribution], driver: str) -> None:
        """Add a chunk.

        Args:
            histories: B of them.
            found: By explainer.
            driver: The explainer whose dependence on values is shown.
        """
        present = histories.present.cpu().numpy()
        row, part = np.nonzero(present)
        code = histories.code.expand(len(histories), -1).cpu().numpy()[row, part]
        hours = histories.hours.cpu().double().numpy()[row, part]
        timed = ~np.isnan(hours)
        window = np.searchsorted(_EDGES, np.maximum(hours[timed], 0), side="right") - 1
        shape, times = (len(histories), len(self.codes)), (len(histories), len(_EDGES) - 1)

        def total(index: NDArray[np.int64], weight: Floats, rows: NDArray[np.int64], size: tuple[int, int]) -> Floats:
            sums = np.bincount(rows * size[1] + index, weight, minlength=size[0] * size[1])
            return sums.astype(np.float64).reshape(size)

        for name, attribution in found.items():
            own = attribution.parts.double().cpu().numpy()[row, part]
            sums = total(code, np.abs(own), row, shape), total(code, own, row, shape)
            self.by_code.setdefault(name, []).append(sums)
            self.by_time.setdefault(name, []).append(total(window, np.abs(own)[timed], row[timed], times))
            if name == driver:
                value = histories.value.cpu().double().numpy()[row, part]
                numbers = ~np.isnan(value)
                start = sum(len(chunk) for chunk in self.has)
                columns = {"history": row + start, "code": code, "value": value, "contribution": own}
                self.values.append(pl.DataFrame({key: column[numbers] for key, column in columns.items()}))
        self.has.append(total(code, np.ones(len(code)), row, shape) > 0)
        oldest = np.zeros(len(histories))
        np.maximum.at(oldest, row[timed], hours[timed])
        self.reach.append(np.array(_EDGES[:-1])[None] <= oldest[:, None])

    def importance(self, subjects: NDArray[np.generic], *, replicates: int, seed: int, level: float) -> pl.DataFrame:
        """Mean weights with bootstrap intervals by subject.

        Returns:
            A row an explainer and code, or stretch of time: `explainer`, `kind` (code, time), `name`, `hours_from` and
            `hours_to` of a stretch, `importance` (mean over histories of what its parts weigh together), `ci_low`,
            `ci_high`, `share` of all, `direction` (mean with signs), `histories` that have it, `rank` within its kind.
            What fewer than 11 histories have is left out.
        """
        draws = np.concatenate([*Draws(subjects, replicates, seed)]) if replicates else np.ones((0, len(subjects)))
        has, reach = np.concatenate(self.has), np.concatenate(self.reach)
        frames = []
        for explainer, chunks in self.by_code.items():
            weight, signed = (np.concatenate([chunk[number] for chunk in chunks]) for number in (0, 1))
            names = pl.DataFrame({"kind": "code", "name": self.codes, "hours_from": None, "hours_to": None})
            frames.append(_means(explainer, names, weight, signed, has.sum(0), draws, level))
            times = np.concatenate(self.by_time[explainer])
            labels = [f"{low:g} to {high:g} h" for low, high in pairwise(_EDGES)]
            stretches = pl.DataFrame(
                {"kind": "time", "name": labels, "hours_from": _EDGES[:-1], "hours_to": _EDGES[1:]}, strict=False
            )
            frames.append(_means(explainer, stretches, times, None, reach.sum(0), draws, level))
        return pl.concat(frames, how="vertical_relaxed")

    def dependence(self, codes: Sequence[str], level: float) -> pl.DataFrame:
        """How contributions follow values: groups of equal size of each code's values.

        Args:
            codes: Which codes.
            level: Coverage of the intervals, by the standard error of the mean.

        Returns:
            `code`, `group` (from the lowest values), `value` (mean, normalised), `contribution` (mean), `ci_low`,
            `ci_high`, `events`, `histories`. Groups of fewer than 11 histories are left out.
        """
        from statistics import NormalDist

        names = pl.DataFrame({"code": range(len(self.codes)), "name": self.codes})
        wide = NormalDist().inv_cdf((1 + level) / 2)
        parts = pl.concat(self.values).join(names.filter(pl.col("name").is_in(list(codes))), on="code")
        rank = (pl.col("value").rank("average").over("name") - 0.5) / pl.len().over("name")
        grouped = (
            parts.with_columns((rank * _LEVELS).floor().cast(pl.Int64).alias("group"))
            # A history counts once, whatever the number of its events.
            .group_by("name", "group", "history")
            .agg(pl.col("value", "contribution").mean(), pl.len().alias("events"))
            .group_by("name", "group")
            .agg(
                pl.col("value").mean(),
                pl.col("contribution").mean(),
                (pl.col("contribution").std() / pl.len().sqrt() * wide).alias("half"),
                pl.col("events").sum(),
                pl.len().alias("histories"),
            )
            .filter(pl.col("histories") >= SMALLEST)
            .sort("name", "group")
        )
        low, high = pl.col("contribution") - pl.col("half"), pl.col("contribution") + pl.col("half")
        columns = [pl.col("name").alias("code"), pl.col("group", "value", "contribution")]
        return grouped.select(*columns, low.alias("ci_low"), high.alias("ci_high"), pl.col("events", "histories"))

    def subgroups(
        self, explainer: str, subjects: NDArray[np.generic], *, replicates: int, seed: int, level: float
    ) -> pl.DataFrame:
        """How much more each code weighs for those who have a static code than for all others.

        Returns:
            `subgroup`, `code`, `inside`, `outside` (mean weights), `difference`, `ci_low`, `ci_high`, `histories`
            inside; only subgroups with at least 11 histories on either side.
        """
        has = np.concatenate(self.has)
        weight = np.concatenate([chunk[0] for chunk in self.by_code[explainer]])
        draws = np.concatenate([*Draws(subjects, replicates, seed)]) if replicates else np.ones((0, len(subjects)))
        rows = []
        for number in range(self.timed, len(self.codes)):
            inside = has[:, number]
            if min(inside.sum(), (~inside).sum()) < SMALLEST:
                continue
            means = [_group_means(weight, mask) for mask in (inside, ~inside)]
            drawn = [_group_means(weight, mask, draws) for mask in (inside, ~inside)]
            for code in np.flatnonzero(has.sum(0) >= SMALLEST):
                spread = drawn[0][:, code] - drawn[1][:, code]
                low, high = np.nanquantile(spread, [(1 - level) / 2, (1 + level) / 2]) if len(spread) else (None, None)
                own, other = float(means[0][0, code]), float(means[1][0, code])
                rows.append(
                    (self.codes[number], self.codes[code], own, other, own - other, low, high, int(inside.sum()))
                )
        names = ["subgroup", "code", "inside", "outside", "difference", "ci_low", "ci_high", "histories"]
        types = [pl.String, pl.String, *[pl.Float64] * 5, pl.Int64]
        return pl.DataFrame(rows, schema=dict(zip(names, types, strict=True)), orient="row")


def _group_means(weight: Floats, mask: NDArray[np.bool_], draws: Floats | None = None) -> Floats:
    weights = mask[None].astype(np.float64) if draws is None else draws * mask
    with np.errstate(divide="ignore", invalid="ignore"):
        means: Floats = weights @ weight / weights.sum(1, keepdims=True)
    return means


def _means(
    explainer: str,
    names: pl.DataFrame,
    weight: Floats,
    signed: Floats | None,
    histories: NDArray[np.integer],
    draws: Floats,
    level: float,
) -> pl.DataFrame:
    """Rows of `Cohort.importance`, of the weights (N, K) of one explainer."""
    mean = weight.mean(0)
    drawn = draws @ weight / np.maximum(draws.sum(1, keepdims=True), 1)
    low, high = (np.quantile(drawn, q, axis=0) if len(drawn) else np.full(len(mean), np.nan) for q in _tails(level))
    frame = names.with_columns(
        pl.lit(explainer).alias("explainer"),
        pl.col("hours_from", "hours_to").cast(pl.Float64),
        pl.Series("importance", mean),
        pl.Series("ci_low", low).fill_nan(None),
        pl.Series("ci_high", high).fill_nan(None),
        pl.Series("share", mean / max(mean.sum(), 1e-300)),
        pl.Series("direction", signed.mean(0) if signed is not None else [None] * len(mean), dtype=pl.Float64),
        pl.Series("histories", histories, dtype=pl.Int64),
    )
    known = frame.filter(pl.col("histories") >= SMALLEST)
    ranked = known.with_columns(pl.col("importance").rank("ordinal", descending=True).cast(pl.Int64).alias("rank"))
    return ranked.select("explainer", *[name for name in ranked.columns if name != "explainer"]).sort("rank")


def _tails(level: float) -> tuple[float, float]:
    return (1 - level) / 2, (1 + level) / 2
