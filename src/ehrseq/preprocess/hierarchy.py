"""Where a code falls back to that is too rare, or new: its ancestors, nearest first."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import polars as pl

from ehrseq.meds import schema

SEPARATOR = "//"


@dataclass(frozen=True)
class Hierarchy:
    """Ancestors of codes.

    Attributes:
        kind: "none": no code has any; "prefix": `LAB//sodium//mmol` falls back to `LAB//sodium`, then to `LAB`;
            "parents": to the `parent_codes` of the dataset's `metadata/codes.parquet`, then to theirs.
        parents: For "parents".
    """

    kind: Literal["none", "prefix", "parents"]
    parents: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def ancestors(self, code: str) -> Iterator[str]:
        """Nearest first; of several parents, those named first are nearer."""
        if self.kind == "prefix":
            while SEPARATOR in code:
                code = code.rpartition(SEPARATOR)[0]
                yield code
        elif self.kind == "parents":
            seen, queue = {code}, [code]
            for item in queue:  # grows as it goes
                for parent in self.parents.get(item, ()):
                    if parent not in seen:  # ontologies have diamonds, and careless ones have circles
                        seen.add(parent)
                        queue.append(parent)
                        yield parent


def read_hierarchy(dataset: Path, kind: Literal["none", "prefix", "parents"]) -> Hierarchy:
    """The hierarchy of a dataset."""
    path = dataset / schema.CODES_FILE
    if kind != "parents" or not path.is_file():
        return Hierarchy(kind)
    table = pl.read_parquet(path)
    if "parent_codes" not in table.columns:
        return Hierarchy(kind)
    table = table.filter(pl.col("parent_codes").list.len() > 0).sort("code")
    return Hierarchy(kind, {row["code"]: tuple(row["parent_codes"]) for row in table.iter_rows(named=True)})
