"""What a report says, gathered from the files of a run folder; nothing is computed anew."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from ehrseq.errors import RunError
from ehrseq.files import read_json, read_manifest
from ehrseq.reporting.words import caption_of, column_in_words, kept_in_words, model_in_words

# Figures in the order of the report: name, section.
_SECTIONS = (
    ("How well does it tell them apart?", ("roc", "precision_recall"), ()),
    ("Are the risks what they say?", ("calibration",), ("calibration",)),
    ("At which threshold, with what consequences?", ("usefulness",), ("thresholds",)),
    ("What would its alarms be like?", ("alarms",), ("alarms",)),
    ("For whom does it work?", ("groups",), ("groups",)),
    ("Does it hold over time?", ("over_time",), ()),
    ("Who was studied?", ("cohort",), ("attrition", "table1", "missingness")),
)
# What files of single persons begin with, in every folder of a run.
INDIVIDUAL = ("timeline", "predictions", "attention")
_INTERVAL = ("_low", "_high")
_TURNED = ("thresholds", "calibration", "alarms")
# Of groups the report has what fits the width of a page; all of it is in the table's file.
_OF_GROUPS = ("variable", "group", "subjects", "positives", "auroc", "sensitivity", "calibration_gap", "flags")
_EXPLANATIONS = ("verdict", "importance", "dependence")  # which come first
_SPLITS = ("train", "tuning", "held_out")


@dataclass(frozen=True)
class Figure:
    """A picture: SVG that the page makes answer, or a PNG as a data URI."""

    name: str
    svg: str = ""
    uri: str = ""

    @property
    def caption(self) -> str:
        """What it shows, in words."""
        return caption_of(self.name)


@dataclass(frozen=True)
class Table:
    """A table in words."""

    name: str
    columns: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Section:
    """A question and what answers it."""

    title: str
    figures: list[Figure]
    tables: list[Table]


@dataclass(frozen=True)
class Page:
    """Everything that a report says.

    Attributes:
        title: Model, data and task.
        split: What was scored.
        level: Coverage of the intervals.
        metrics: As in `metrics.json`, and those of the controls.
        sections: Questions and answers.
        sentences: The result in plain words.
        verdict: What the explanations are worth, in a sentence; empty where it was not examined.
        explanations: Their figures.
        importance: The features that count most, where that was examined.
        facts: How it was made: name and value.
        settings: The configuration as YAML.
        config: The same as plain types.
        evaluation: The manifest of the evaluation.
        training: That of the training.
        tables: The evaluation's tables by name.
        individuals: Whether figures of single persons are shown.
    """

    title: str
    split: str
    level: float
    metrics: dict[str, dict[str, float | None]]
    sections: list[Section]
    sentences: list[str]
    verdict: str
    explanations: list[Figure]
    importance: Table | None
    facts: list[tuple[str, str]]
    settings: str
    config: dict[str, Any]
    evaluation: dict[str, Any]
    training: dict[str, Any]
    tables: dict[str, pl.DataFrame]
    individuals: bool

    def metric(self, name: str) -> dict[str, float | None]:
        """A metric of the split; all None where there is none."""
        return self.metrics.get(f"{self.split}/{name}", dict.fromkeys(("value", "ci_low", "ci_high")))

    def words(self, name: str) -> str:
        """A metric with its interval."""
        return in_words(self.metric(name))

    @classmethod
    def of_run(cls, folder: Path, individuals: bool) -> "Page":
        """Read a run folder.

        Args:
            folder: The run folder.
            individuals: Whether figures of single persons may be shown.

        Raises:
            RunError: If it was not evaluated.
        """
        training, evaluation = (read_manifest(folder / part) or {} for part in ("train", "evaluate"))
        if "split" not in evaluation:
            raise RunError(
                f"{folder} holds no evaluation that can be reported; make one: ehrseq evaluate run={folder} force=true"
            )
        text = (folder / "train" / "config.yaml").read_text(encoding="utf-8")
        config = yaml.safe_load(text)
        metrics: dict[str, dict[str, float | None]] = read_json(folder / "evaluate" / "metrics.json")
        control = folder / "audit" / "audit.json"
        if control.is_file():
            metrics |= read_json(control)
        evaluated = folder / "evaluate"
        tables = {
            path.stem: pl.read_csv(path, infer_schema_length=None)
            for path in sorted((evaluated / "tables").glob("*.csv"))
        }
        verdict = folder / "explain" / "verdict.json"
        page = cls(
            title=f"{config['model']['name']} on {evaluation['source']}, {config['task']['name']}",
            split=evaluation["split"],
            level=evaluation["level"],
            metrics=metrics,
            sections=_sections(evaluated, tables),
            sentences=[],
            verdict=str(read_json(verdict).get("sentence", "")) if verdict.is_file() else "",
            explanations=_explanations(folder / "explain", individuals),
            importance=_importance(folder / "explain" / "importance.parquet"),
            facts=_facts(folder, config, training, evaluation),
            settings=text,
            config=config,
            evaluation=evaluation,
            training=training,
            tables=tables,
            individuals=individuals,
        )
        page.sentences.extend(_sentences(page))
        return page


def in_words(estimate: Mapping[str, float | None]) -> str:
    """A figure with its interval; an undefined one says so."""
    value, low, high = estimate["value"], estimate["ci_low"], estimate["ci_high"]
    if value is None:
        return "undefined"
    return f"{value:.3f}" if low is None or high is None else f"{value:.3f} ({low:.3f} to {high:.3f})"


def table_in_words(name: str, frame: pl.DataFrame) -> Table:
    """A table with its intervals beside their figures; few rows of many figures stand as columns."""
    columns = [
        column
        for column in frame.columns
        if not (column.endswith(_INTERVAL) and column.rpartition("_")[0] in frame.columns)
    ]
    if "shown" in columns:
        own = [column for column in _OF_GROUPS if column in columns]
        columns = own if "auroc" in own else [column for column in columns if column != "shown"]
    rows = [[_cell(row, column) for column in columns] for row in frame.iter_rows(named=True)]
    names = [column_in_words(column) for column in columns]
    if name.endswith(_TURNED):
        turned = [list(cells) for cells in zip(names, *rows, strict=True)]
        return Table(name, turned[0], turned[1:])
    return Table(name, names, rows)


def sizes_of(evaluation: Mapping[str, Any]) -> str:
    """How many predictions each split has."""
    splits = evaluation["splits"]
    return ", ".join(f"{name} {splits[name]['samples']:,}" for name in _SPLITS if name in splits)


def _brief(estimate: Mapping[str, float | None]) -> str:
    """A figure with its interval, for within brackets."""
    return in_words(estimate).replace(" (", ", ").replace(")", "")


def _cell(row: Mapping[str, Any], column: str) -> str:
    value = row[column]
    low, high = row.get(f"{column}_low"), row.get(f"{column}_high")
    match value:
        case None:
            if "shown" not in row:
                return "-"
            return "hidden" if not row["shown"] or row.get("positives", 0) is None else "undefined"
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            if low is None or high is None:
                return f"{value:.3f}"
            return f"{value:.3f} ({low:.3f} to {high:.3f})"
        case str() if column == "rule":
            return column_in_words(value)
        case _:
            return str(value)


def _sections(folder: Path, tables: Mapping[str, pl.DataFrame]) -> list[Section]:
    """All sections that have something, of each of several targets in turn."""
    svgs = {path.stem: path for path in sorted(folder.glob("*.svg"))}
    sections = []
    for title, figures, names in _SECTIONS:
        shown = [stem for name in figures for stem in _named(svgs, name)]
        told = [stem for name in names for stem in _named(tables, name)]
        if shown or told:
            drawn = [Figure(stem, svg=svgs[stem].read_text(encoding="utf-8")) for stem in shown]
            own = [table for stem in told for table in _by_outcome(stem, _without_grid(tables[stem]))]
            sections.append(Section(title, drawn, own))
    return sections


def _by_outcome(name: str, frame: pl.DataFrame) -> list[Table]:
    """A table in words; of several outcomes, one of each."""
    if "outcome" not in frame.columns:
        return [table_in_words(name, frame)]
    parts = frame.partition_by("outcome", maintain_order=True, include_key=False, as_dict=True)
    return [replace(table_in_words(name, own), name=f"{name}: {outcome}") for (outcome,), own in parts.items()]


def _named(known: Mapping[str, Any], name: str) -> list[str]:
    """Those of this name, also behind the name of a part."""
    return [stem for stem in known if stem == name or stem.endswith(f"_{name}")]


def _without_grid(frame: pl.DataFrame) -> pl.DataFrame:
    """Of alarms, the thresholds of rules; those of the curve are in the figure."""
    return frame.filter(~pl.col("rule").str.starts_with("quantile")) if "rule" in frame.columns else frame


def _explanations(folder: Path, individuals: bool) -> list[Figure]:
    figures = []
    first = {name: number for number, name in enumerate(_EXPLANATIONS)}
    for path in sorted(folder.glob("*.png"), key=lambda path: (first.get(path.stem, len(first)), path.stem)):
        if individuals or not path.name.startswith(INDIVIDUAL):
            figures.append(Figure(path.stem, uri=_data_uri(path)))
    return figures


def _data_uri(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def _importance(path: Path) -> Table | None:
    if not path.is_file():
        return None
    frame = pl.read_parquet(path)
    codes = frame.filter(pl.col("kind") == "code").head(20)
    names = {"name": "code", "ci_low": "importance_low", "ci_high": "importance_high"}
    return table_in_words(
        "importance",
        codes.rename(names).select("code", "importance", *list(names.values())[1:], "direction", "histories"),
    )


def _facts(
    folder: Path, config: Mapping[str, Any], training: Mapping[str, Any], evaluation: Mapping[str, Any]
) -> list[tuple[str, str]]:
    environment = folder / "train" / "environment.json"
    machine = read_json(environment) if environment.is_file() else {}
    git = machine.get("git") or {}
    packages, options = machine.get("packages", {}), evaluation["key"]["evaluate"]
    sizes = sizes_of(evaluation)
    by_folds = config.get("members_by") == "folds"
    facts = [
        ("run", folder.name),
        ("data", f"{evaluation['source']}, digest {evaluation['data_digest']}; store {evaluation['store_digest']}"),
        ("predictions by split", sizes),
        ("model", model_in_words(config)),
        ("weights of", kept_in_words(training)),
        ("seed; members", f"{config['seed']}; {config['members']}" + (", by folds" if by_folds else "")),
        ("recalibration", str(evaluation["key"].get("recalibration", "none"))),
        ("intervals", f"{evaluation['level']:.0%}, {options['replicates']:,} bootstrap samples of subjects, "
                      f"seed {options['seed']}"),
        ("code", f"commit {git['commit'][:12]}{' with changes' if git['changed'] else ''}" if git else "unknown"),
    ]  # fmt: skip
    versions = ", ".join(f"{name} {packages[name]}" for name in ("ehrseq", "torch", "numpy") if name in packages)
    return facts + ([("versions", versions)] if versions else [])


def _sentences(page: Page) -> list[str]:
    """The result of a risk of one outcome, for people."""
    prevalence = page.metric("prevalence")["value"]
    auroc = page.metric("auroc")
    if prevalence is None or auroc["value"] is None:
        return []
    sentences = [
        f"Of two {page.split} histories, one with the outcome and one without, the model gives the one with it the "
        f"higher risk {auroc['value']:.0%} of the time (AUROC {_brief(auroc)}); {prevalence:.1%} have the outcome.",
    ]
    found, alerts, ppv = (page.metric(f"at_budget/{name}")["value"] for name in ("sensitivity", "alert_rate", "ppv"))
    if found is not None and alerts is not None and ppv is not None:
        sentences.append(
            f"Alerting to the {alerts:.0%} with the highest risks finds {found:.0%} of the outcomes, and {ppv:.0%} of "
            "the alerts are right."
        )
    slope = page.metric("calibration_slope")
    if slope["value"] is not None and slope["ci_low"] is not None and slope["ci_high"] is not None:
        judgement = "as spread as the outcomes warrant"
        if slope["ci_high"] < 1:
            judgement = "too extreme"
        elif slope["ci_low"] > 1:
            judgement = "not spread enough"
        sentences.append(f"Its risks are {judgement} (calibration slope {_brief(slope)}; 1 is perfect).")
    flagged = page.metric("groups/flagged")["value"]
    if flagged is not None:
        sentences.append(
            "No group differs from everybody by more than chance allows."
            if not flagged
            else f"{flagged:.0f} gap{'s' if flagged > 1 else ''} between a group and everybody "
            f"{'are' if flagged > 1 else 'is'} more than chance; see below."
        )
    return sentences


def rows_in_markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = ["| " + " | ".join(columns) + " |", "| " + " | ".join("---" for _ in columns) + " |"]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)
