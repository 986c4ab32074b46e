"""All aspects of one evaluation: what is computed and drawn for each kind of target, in one place."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ehrseq.config.schema import Settings
from ehrseq.config.targets import MultilabelTarget, SeveralTarget, Target, columns_of
from ehrseq.evaluation.alarms import UTILITY_RULE, evaluate_alarms
from ehrseq.evaluation.binary import (
    BUDGET,
    SENSITIVITY,
    compare_calibration,
    evaluate_operating_points,
    evaluate_usefulness,
)
from ehrseq.evaluation.cohort import describe_cohort, history_hours
from ehrseq.evaluation.findings import Findings, Scored, stacked
from ehrseq.evaluation.groups import evaluate_other_subgroups, evaluate_subgroups
from ehrseq.evaluation.risks import Rows, risks_of, score_risks
from ehrseq.evaluation.statics import group_by_statics, group_by_time, read_statics
from ehrseq.files import read_manifest
from ehrseq.metrics import Estimate, evaluate_binary
from ehrseq.metrics.groups import Grouping
from ehrseq.store import Store
from ehrseq.workflows.prepare import Prepared
from ehrseq.workflows.recalibration import mend_all
from ehrseq.workflows.runs import TrainedRun
from ehrseq.workflows.scorers import Scorer

Floats = NDArray[np.float64]
_OWN = ("auroc", "auprc", "prevalence")  # what the pictures of one of several outcomes say of it


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
        rows = Rows(subject, time, history_hours(self.store, self.samples))
        statics = read_statics(self.prepared.dataset)
        groupings = group_by_statics(statics, subject, time, config.subgroups, config.age_bands)
        arrays = self.store.arrays
        events = arrays.sample_end[self.samples] - arrays.sample_begin[self.samples]
        groupings += group_by_time(time, rows.history_hours, events.astype(np.float64))
        manifest = read_manifest(self.prepared.store) or {}
        steps = [(str(step), int(count)) for step, count in manifest.get("attrition", [])]
        cohort = describe_cohort(self.store, statics, steps, target, config.split, config.min_group)

        targets: dict[str, list[Scored]] = {}
        for scored in self._risks(target, outcome, prediction, raw, rows):
            targets.setdefault(scored.prefix, []).append(scored)
        shown = {
            prefix: [(scored, self._examine_risk(scored, target, groupings, estimates)) for scored in family]
            for prefix, family in targets.items()
        }
        others = Findings()
        if target.kind != "forecast" and all(scored.name for family in targets.values() for scored in family):
            arguments = target, outcome, prediction, subject, groupings, config, self.options
            others = evaluate_other_subgroups(*arguments)
        if config.figures:
            from ehrseq.evaluation.pictures import draw_by_group, draw_cohort, draw_risks

            for pairs in shown.values():
                draw_risks(pairs, self._rule(estimates), config, folder)
            if "groups" in others.tables:
                draw_by_group(others.tables["groups"], estimates, folder)
            draw_cohort(cohort.tables, self._sizes(manifest), folder / "cohort.png")
        findings = Findings(estimates)
        for prefix, pairs in shown.items():
            if pairs[0][0].name:
                findings |= stacked([(scored.name, found) for scored, found in pairs]).prefixed(prefix)
            else:
                findings |= pairs[0][1].prefixed(prefix)
        return findings | others | cohort

    def _risks(
        self, target: Target, outcome: NDArray[np.float32], prediction: Floats, raw: Floats, rows: Rows
    ) -> list[Scored]:
        """Every yes-or-no question, where its answer is known, with thresholds chosen on `tuning`."""
        asked = risks_of(target, outcome, prediction)
        if not asked:
            return []
        tuning = self.store.samples("tuning")
        told = self.trained.recalibrate(
            self.scorer.score(self.store, tuning, self.settings), self.settings.recalibration
        )
        mended = mend_all(target, self.trained.calibrators(), raw)
        return score_risks(
            asked,
            risks_of(target, outcome, raw),
            {method: risks_of(target, outcome, risks) for method, risks in mended.items()},
            risks_of(target, self.store.arrays.sample_label[tuning], told),
            rows,
            self.settings.evaluate,
        )

    def _examine_risk(
        self, scored: Scored, target: Target, groupings: list[Grouping], estimates: dict[str, Estimate]
    ) -> Findings:
        """What is found of one outcome, with its own ranking metrics."""
        config, used, prefix = self.settings.evaluate, self.settings.recalibration, scored.prefix
        if scored.name:
            given = scored.label, scored.risk, scored.subject
            ranked = evaluate_binary(*given, **self.options, stratified=config.stratified, weight=scored.weight)
            own = {name: ranked[name] for name in _OWN}
        else:
            own = {name.removeprefix(prefix): item for name, item in estimates.items() if name.startswith(prefix)}
        findings = Findings(own)
        findings |= evaluate_operating_points(scored, config, self.options)
        findings |= compare_calibration(scored, used, config, self.options)
        findings |= evaluate_usefulness(scored, config, self.options)
        if not scored.name:
            own_groups = [
                Grouping(item.variable, item.names, item.number[scored.rows], item.tested) for item in groupings
            ]
            findings |= evaluate_subgroups(scored, own_groups, SENSITIVITY, config, self.options)
        utility = estimates.get("utility_threshold")
        if (self.settings.outputs == "steps" or utility is not None) and _sounds(target, scored):
            extra = {} if utility is None or utility.value is None else {UTILITY_RULE: utility.value}
            findings |= evaluate_alarms(scored, extra, self._rule(estimates), config, self.options)
        return findings

    def _rule(self, estimates: dict[str, Estimate]) -> str:
        """By which rule's threshold alarms are judged."""
        utility = estimates.get("utility_threshold")
        return BUDGET if utility is None or utility.value is None else UTILITY_RULE

    def _sizes(self, manifest: dict[str, Any]) -> dict[str, str]:
        """What is said of each split."""
        splits = {}
        for name in ("train", "tuning", "held_out"):
            if name in manifest["splits"]:
                samples = self.store.samples(name)
                people = len(np.unique(self.store.subjects_of(samples)))
                splits[name] = f"{people:,} subjects" + (
                    f"\n{len(samples):,} predictions" if len(samples) > people else ""
                )
        return splits


def _sounds(target: Target, scored: Scored) -> bool:
    """Whether a risk is of an event that may come: alarms are of these, not of classes, buckets and horizons."""
    if isinstance(target, SeveralTarget):
        target = next(part.target for part in columns_of(target.parts) if f"{part.name}_" == scored.prefix)
    return len(scored.label) > 0 and (not scored.name or isinstance(target, MultilabelTarget))
