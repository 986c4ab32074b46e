"""All aspects of one evaluation: what is computed and drawn for each kind of target, in one place."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ehrseq.config.schema import Settings
from ehrseq.config.targets import BinaryTarget, SeveralTarget, Target, columns_of
from ehrseq.evaluation.alarms import UTILITY_RULE, evaluate_alarms
from ehrseq.evaluation.binary import (
    BUDGET,
    SENSITIVITY,
    choose_thresholds,
    compare_calibration,
    evaluate_operating_points,
    evaluate_usefulness,
)
from ehrseq.evaluation.cohort import describe_cohort, history_hours
from ehrseq.evaluation.findings import Findings, Scored
from ehrseq.evaluation.groups import evaluate_other_subgroups, evaluate_subgroups
from ehrseq.evaluation.statics import group_by_statics, group_by_time, read_statics
from ehrseq.files import read_manifest
from ehrseq.metrics import Estimate
from ehrseq.metrics.groups import Grouping
from ehrseq.store import Store
from ehrseq.workflows.prepare import Prepared
from ehrseq.workflows.runs import TrainedRun
from ehrseq.workflows.scorers import Scorer

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Aspects:
    """What every aspect draws on.

    Attributes:
        settings: Of this evaluation.
        prepared: The data.
        trained: The run.
        store: The data, opened.
        scorer: Of the run.
        samples: (M,) what is scored.
        options: How sure figures are made, see `evaluate.bootstrap_options`.
    """

    settings: Settings
    prepared: Prepared
    trained: TrainedRun
    store: Store
    scorer: Scorer
    samples: NDArray[np.int64]
    options: dict[str, Any]

    def examine(
        self,
        target: Target,
        outcome: NDArray[np.float32],
        prediction: Floats,
        raw: Floats,
        estimates: dict[str, Estimate],
        folder: Path,
    ) -> Findings:
        """Everything beside the plain metrics.

        Args:
            target: With the classes that were found.
            outcome: (M, L).
            prediction: (M, P) as told to people.
            raw: (M, P) as the model gives them.
            estimates: The plain metrics, which are handed on.
            folder: Where the figures go.
        """
        config = self.settings.evaluate
        subject, time = self.store.subjects_of(self.samples), self.store.arrays.sample_time[self.samples]
        hours = history_hours(self.store, self.samples)
        statics = read_statics(self.prepared.dataset)
        groupings = group_by_statics(statics, subject, time, config.subgroups, config.age_bands)
        arrays = self.store.arrays
        events = arrays.sample_end[self.samples] - arrays.sample_begin[self.samples]
        groupings += group_by_time(time, hours, events.astype(np.float64))
        findings = Findings(estimates)
        manifest = read_manifest(self.prepared.store) or {}
        steps = [(str(step), int(count)) for step, count in manifest.get("attrition", [])]
        cohort = describe_cohort(self.store, statics, steps, target, config.split, config.min_group)
        parts = self._binary_parts(target, outcome, prediction, raw, subject, time, hours)
        for scored, rows in parts:
            own = [Grouping(item.variable, item.names, item.number[rows], item.tested) for item in groupings]
            findings = findings | self._examine_risk(scored, own, estimates, folder)
        if not parts and target.kind != "forecast":
            arguments = target, outcome, prediction, subject, groupings, config, self.options
            others = evaluate_other_subgroups(*arguments)
            findings = findings | others
            if config.figures:
                self._draw_groups(others, estimates, folder, "")
        if config.figures:
            self._draw_cohort(cohort, manifest, folder)
        return findings | cohort

    def _binary_parts(
        self,
        target: Target,
        outcome: NDArray[np.float32],
        prediction: Floats,
        raw: Floats,
        subject: NDArray[np.int64],
        time: NDArray[np.int64],
        hours: Floats,
    ) -> list[tuple[Scored, NDArray[np.int64]]]:
        """Every yes-or-no outcome, where it is known, and its rows among all."""
        places: list[tuple[str, int, int]] = []
        if isinstance(target, BinaryTarget):
            places = [("", 0, 0)]
        elif isinstance(target, SeveralTarget):
            places = [
                (f"{part.name}_", part.outcomes.start, part.predictions.start)
                for part in columns_of(target)
                if isinstance(part.target, BinaryTarget)
            ]
        if not places:
            return []
        tuning = self.store.samples("tuning")
        told = self.trained.recalibrate(
            self.scorer.score(self.store, tuning, self.settings), self.settings.recalibration
        )
        parts = []
        for prefix, label, column in places:
            rows = np.flatnonzero(~np.isnan(outcome[:, label]))
            truth = self.store.arrays.sample_label[tuning, label].astype(np.float64)
            known = ~np.isnan(truth)
            thresholds = choose_thresholds(truth[known], told[known, column], self.settings.evaluate)
            scored = Scored(
                outcome[rows, label].astype(np.float64),
                prediction[rows, column],
                raw[rows, column],
                subject[rows],
                time[rows],
                hours[rows],
                thresholds,
                prefix,
            )
            parts.append((scored, rows))
        return parts

    def _examine_risk(
        self, scored: Scored, groupings: list[Grouping], estimates: dict[str, Estimate], folder: Path
    ) -> Findings:
        config, used, prefix = self.settings.evaluate, self.settings.recalibration, scored.prefix
        calibrators = self.trained.calibrators().get(f"{prefix}probability", {})
        findings = evaluate_operating_points(scored, config, self.options)
        findings |= compare_calibration(scored, calibrators, used, config, self.options)
        findings |= evaluate_usefulness(scored, config, self.options)
        findings |= evaluate_subgroups(scored, groupings, SENSITIVITY, config, self.options)
        utility = estimates.get("utility_threshold")
        if self.settings.outputs == "steps" or utility is not None:
            extra = {} if utility is None or utility.value is None else {UTILITY_RULE: utility.value}
            rule = UTILITY_RULE if extra else BUDGET
            findings |= evaluate_alarms(scored, extra, rule, config, self.options)
            if config.figures:
                from ehrseq.evaluation.draw_alarms import draw_alarms

                draw_alarms(findings.tables["alarms"], rule, folder / f"{prefix}alarms.png")
        if config.figures:
            self._draw_risk(scored, findings, estimates, folder)
        return findings.prefixed(prefix)

    def _draw_risk(self, scored: Scored, findings: Findings, estimates: dict[str, Estimate], folder: Path) -> None:
        from ehrseq.evaluation import draw_binary, draw_groups

        config, used, prefix = self.settings.evaluate, self.settings.recalibration, scored.prefix
        own = {name.removeprefix(prefix): item for name, item in estimates.items() if name.startswith(prefix)}
        own |= findings.metrics
        level, tables = config.level, findings.tables
        draw_binary.draw_roc(scored, own, config.seed, level, folder / f"{prefix}roc.png")
        draw_binary.draw_precision_recall(scored, own, folder / f"{prefix}precision_recall.png")
        draw_binary.draw_calibration(
            scored, tables["reliability"], used, own, config.min_group, folder / f"{prefix}calibration.png"
        )
        draw_binary.draw_usefulness(tables["decision_curve"], scored, level, folder / f"{prefix}usefulness.png")
        self._draw_groups(findings, own, folder, prefix)
        if "groups" in tables:
            draw_groups.draw_over_time(tables["groups"], _values(own), folder / f"{prefix}over_time.png")

    def _draw_groups(self, findings: Findings, estimates: dict[str, Estimate], folder: Path, prefix: str) -> None:
        from ehrseq.evaluation.draw_groups import draw_groups, has_groups

        if "groups" in findings.tables and has_groups(findings.tables["groups"]):
            draw_groups(findings.tables["groups"], _values(estimates), folder / f"{prefix}groups.png")

    def _draw_cohort(self, cohort: Findings, manifest: dict[str, Any], folder: Path) -> None:
        from ehrseq.evaluation.draw_cohort import draw_cohort

        splits = {}
        for name in ("train", "tuning", "held_out"):
            if name in manifest["splits"]:
                samples = self.store.samples(name)
                people = len(np.unique(self.store.subjects_of(samples)))
                splits[name] = f"{people:,} subjects" + (
                    f"\n{len(samples):,} predictions" if len(samples) > people else ""
                )
        draw_cohort(cohort.tables, splits, folder / "cohort.png")


def _values(estimates: dict[str, Estimate]) -> dict[str, float | None]:
    values = {name: estimate.value for name, estimate in estimates.items()}
    return values | {"sensitivity": values.get(f"{SENSITIVITY}/sensitivity")}
