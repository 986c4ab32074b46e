"""What a timeline shows of a history: which codes get a row of their own, and the units of its axes."""

from dataclasses import dataclass

import polars as pl

from ehrseq.explain.person import Glossary, Person

ROWS = 24  # codes with a row of their own on a page
OTHERS = "all other codes"


@dataclass(frozen=True)
class Layout:
    """Rows of a timeline, from the top.

    Attributes:
        names: What stands beside each row.
        totals: What the events of each row contribute together.
        timed: The events that have a time: those of `Person.events` with `row`, `when` and `name`.
        statics: The names of static codes, and what each contributes, the largest first.
        unit: Of `when`: hours or days.
        oldest: The largest `when` on the axis.
        largest: The largest contribution of an event, without its sign.
    """

    names: list[str]
    totals: list[float]
    timed: pl.DataFrame
    statics: list[tuple[str, float]]
    unit: str
    oldest: float
    largest: float


def shorten(name: str, most: int) -> str:
    """A name that fits beside a row."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


def lay_out(person: Person, glossary: Glossary) -> Layout:
    """Lay a history out: codes that contribute most get rows of their own, the others share the last one."""
    events = person.events
    timed = events.filter(pl.col("hours").is_not_null())
    sums = timed.group_by("code").agg(pl.col("contribution").sum(), pl.col("contribution").abs().sum().alias("size"))
    ranked = sums.sort("size", "code", descending=[True, False])
    own = ranked.height if ranked.height <= ROWS else ROWS - 1
    codes = ranked["code"].to_list()
    names = [glossary.name(code) for code in codes[:own]]
    totals = ranked["contribution"].to_list()[:own]
    if own < ranked.height:
        names.append(f"{OTHERS} ({ranked.height - own})")
        totals.append(float(ranked["contribution"][own:].sum()))
    oldest = float(max([*timed["hours"].to_list(), *person.path["hours"].to_list(), 1.0]))
    unit, factor = ("days", 24.0) if oldest > 24 * 7 else ("hours", 1.0)
    rows = {"code": codes, "row": [min(number, own) for number in range(len(codes))]}
    numbers = pl.DataFrame(rows, schema={"code": pl.String, "row": pl.Int64})
    placed = timed.join(numbers, on="code", how="left", maintain_order="left").with_columns(
        (pl.col("hours") / factor).alias("when"),
        pl.col("code").map_elements(glossary.name, return_dtype=pl.String).alias("name"),
    )
    still = events.filter(pl.col("hours").is_null()).sort(pl.col("contribution").abs(), descending=True)
    statics = [
        (glossary.name(row["code"]) + glossary.amount(row["code"], row["value"]), row["contribution"])
        for row in still.iter_rows(named=True)
    ]
    largest = float(max(timed["contribution"].abs().to_list() or [0.0])) or 1.0
    return Layout(names, totals, placed, statics, unit, oldest / factor, largest)
