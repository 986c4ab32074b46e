"""From trained weights to explanations, and how far they can be believed."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ehrseq.config.representation import GridConfig
from ehrseq.config.schema import Settings
from ehrseq.config.targets import ForecastTarget, SeveralTarget, columns_of
from ehrseq.errors import ConfigError, DataError
from ehrseq.files import atomic_folder, is_current, read_json, write_json, write_manifest
from ehrseq.meds import schema
from ehrseq.workflows.console import progress, say, timed
from ehrseq.workflows.controls import train_controls
from ehrseq.workflows.evaluate import Metrics, bootstrap_options, describe_outcome, plain
from ehrseq.workflows.prepare import Prepared, check_same_data
from ehrseq.workflows.runs import EXPLAIN, TrainedRun

if TYPE_CHECKING:
    import torch

    from ehrseq.data import Representation, SequenceBatch
    from ehrseq.explain.base import Attribution, Explainer
    from ehrseq.explain.cohort import Cohort
    from ehrseq.explain.controls import Controls
    from ehrseq.explain.histories import Histories
    from ehrseq.explain.person import Glossary
    from ehrseq.explain.verdict import Verdict
    from ehrseq.metrics.intervals import Estimate
    from ehrseq.nn import Prediction, SequenceModel
    from ehrseq.preprocess import Preprocessor
    from ehrseq.store import Store

ATTENTION, COHORT, HEAT_MAP = "attention.parquet", "cohort_attention.csv", "cohort_attention.png"
VERDICT, VERDICT_FIGURE = "verdict.json", "verdict.png"
IMPORTANCE, ATTRIBUTIONS = "importance.parquet", "attributions.parquet"
DEPENDENCE, SUBGROUPS = "dependence.parquet", "subgroups.parquet"
_SUMS = "integrated_gradients"
_CURVES = 9  # codes whose dependence is shown


@dataclass(frozen=True)
class Explained:
    """What `explain` gives.

    Attributes:
        folder: With tables, figures and pages.
        sentence: The verdict in words.
        metrics: Figures of the explainers, with intervals.
    """

    folder: Path
    sentence: str
    metrics: Metrics


def explain_key(settings: Settings, trained: TrainedRun) -> dict[str, Any]:
    """What determines this workflow's output."""
    bootstrap = bootstrap_options(settings)
    return {"weights": trained.weights_digest, "explain": settings.explain.plain(), "intervals": bootstrap}


def run(settings: Settings, prepared: Prepared, trained: TrainedRun) -> Explained:
    """Explain a run's predictions on a split, and judge the explanations.

    Writes `explain/`: `verdict.json` and `verdict.png`; what matters in the cohort (`importance`, `dependence`,
    `subgroups`); the contribution of every event of the explained histories (`attributions.parquet`); timelines of some
    histories (PNG, HTML); where the network has attention, that of every history and its mean over the cohort.

    Raises:
        DataError: If the data are not those of the training.
        RunError: If this is a run of trees.
        ConfigError: If an explainer is unknown, or lacks what it needs, or the run is one of forecasts.
    """
    if isinstance(trained.target(), ForecastTarget):
        raise ConfigError("a forecast target has no score that could be explained")
    check_same_data(prepared, trained.key)
    key = explain_key(settings, trained)
    folder = trained.folder / EXPLAIN
    if not settings.force and is_current(folder, key):
        say(f"explain: {folder} is up to date")
        return _read(folder)
    if trained.settings.blend is not None:
        say("explain: of the blend the network is explained, not the trees")
    work = _Work.begin(settings, prepared, trained)
    with atomic_folder(folder) as staging:
        scores = work.look(staging)
        verdict = work.judge(staging, float(scores["score"].to_numpy().mean()))
        work.cohort(staging, verdict)
        work.people(staging, verdict, scores)
        write_manifest(staging, EXPLAIN, key, histories=len(work.samples), judged=verdict.histories)
    say(f"explain: {verdict.sentence}")
    return _read(folder)


def _read(folder: Path) -> Explained:
    found = read_json(folder / VERDICT)
    return Explained(folder, found["sentence"], found["metrics"])


@dataclass(frozen=True)
class _Work:
    """What all parts of the workflow need.

    Attributes:
        everything: Sample numbers of the split.
        samples: Those that are explained, ascending.
        judged: Those that explainers are judged on.
    """

    settings: Settings
    prepared: Prepared
    trained: TrainedRun
    store: "Store"
    model: "SequenceModel"
    representation: "Representation"
    device: "torch.device"
    everything: NDArray[np.int64]
    samples: NDArray[np.int64]
    judged: NDArray[np.int64]

    @classmethod
    def begin(cls, settings: Settings, prepared: Prepared, trained: TrainedRun) -> "_Work":
        from ehrseq.data import StepHistories, nth_of_subject, represent
        from ehrseq.training import inference

        store, options = prepared.open(), settings.explain
        device = inference.choose_device(settings.trainer.accelerator)
        everything = store.samples(options.split)
        own = trained.settings
        number = options.prediction
        if number == "auto" and own.outputs == "steps":
            number = -1
        if number != "auto":
            everything = nth_of_subject(store, everything, number)
            if not len(everything):
                raise DataError(f"explain.prediction={number}: nobody in {options.split} has so many predictions")
        # One order for both: a larger number adds histories, and the judged ones are among the explained.
        drawn = np.random.default_rng(options.seed).permutation(everything)
        samples = np.sort(drawn[: options.samples])
        judged = np.sort(drawn[: min(options.judged, len(samples))])
        representation: Representation
        if own.outputs == "steps":
            # With outputs at every step: each history up to the step that is asked for.
            assert isinstance(own.representation, GridConfig)
            representation = StepHistories(store, own.representation)
        else:
            representation = represent(store, own.representation)
        model = trained.model().to(device)
        return cls(settings, prepared, trained, store, model, representation, device, everything, samples, judged)

    def look(self, staging: Path) -> pl.DataFrame:
        """One pass over the whole split: `sample`, `score` and `risk`; where the network has attention, its tables."""
        from ehrseq.data import HistoryDataset
        from ehrseq.explain.attention import attention_table, choose_bin_hours, cohort_attention
        from ehrseq.explain.figures import draw_heat_map
        from ehrseq.explain.weights import has_attention
        from ehrseq.training import inference

        objective, parts = self.model.objective, []
        dataset = HistoryDataset(self.representation, self.everything)

        def outputs() -> Iterator[tuple["SequenceBatch", "Prediction"]]:
            loader = dataset.ordered(self.settings.loader)
            for batch, prediction in inference.predictions(self.model, loader, self.device):
                output = prediction.output.double()
                columns = {"sample": batch.samples, "score": objective.score(output), "risk": objective.risk(output)}
                parts.append(pl.DataFrame({name: column.cpu().numpy() for name, column in columns.items()}))
                yield batch, prediction

        with timed(f"explain: {len(self.everything):,} histories read"):
            if has_attention(self.model):
                table = attention_table(outputs(), self.store, objective.risk)
                table.drop("sample").write_parquet(staging / ATTENTION)
                width = self.representation.bin_hours or choose_bin_hours(table)
                cohort = cohort_attention(table, width)
                cohort.write_csv(staging / COHORT)
                draw_heat_map(cohort, width, staging / HEAT_MAP)
            else:
                deque(outputs(), maxlen=0)
        return pl.concat(parts).sort("sample")

    def judge(self, staging: Path, mean_score: float) -> "Verdict":
        """Judge the explainers."""
        from ehrseq.explain.cohort_figures import draw_verdict
        from ehrseq.explain.judge import CHUNK, Judge
        from ehrseq.explain.planted import TRUTH, PlantedEvents
        from ehrseq.explain.sanity import learns_attention
        from ehrseq.explain.verdict import reach_verdict
        from ehrseq.metrics.intervals import Estimate

        truth = self.prepared.dataset / TRUTH
        planted = PlantedEvents(truth, self.store) if truth.is_dir() else None
        networks = train_controls(self.settings, self.prepared, self.trained).to(self.device)
        judge = Judge(self.model, self._make, mean_score, planted, self.settings.explain.seed, networks)
        chunks = -(-len(self.judged) // CHUNK)
        options = bootstrap_options(self.settings)
        tests = self._attention_tests(networks) if networks and learns_attention(self.model) else {}
        with timed(f"explain: explainers judged on {len(self.judged):,} histories"):
            with progress("judging explainers", chunks) as each:
                figures = judge.run(self.representation, self.judged, self.device, each)
            alike = judge.importance_across_seeds()
            tests |= {name: Estimate(value, None, None) for name, value in alike.items()}
            names = [explainer.name for explainer in judge.explainers]
            subjects = self.store.subjects_of(self.judged)
            verdict = reach_verdict(figures, names, subjects, **options, tests=tests)
        write_json(
            staging / VERDICT,
            {
                "sentence": verdict.sentence,
                "ranking": verdict.ranking,
                "believed": verdict.believed,
                "histories": verdict.histories,
                "metrics": {f"explain/{name}": plain(found) for name, found in sorted(verdict.metrics.items())},
            },
        )
        draw_verdict(verdict, staging / VERDICT_FIGURE)
        return verdict

    def _attention_tests(self, networks: "Controls") -> "dict[str, Estimate]":
        """What attention is worth beside that of other networks, on the whole split."""
        from ehrseq.data import HistoryDataset
        from ehrseq.explain.controls import attention_tests
        from ehrseq.explain.verdict import estimate_means

        dataset = HistoryDataset(self.representation, self.everything)
        with timed(f"explain: attention tested on {len(self.everything):,} histories"):
            figures = attention_tests(self.model, networks, dataset.ordered(self.settings.loader))
            subjects = self.store.subjects_of(self.everything)
            return estimate_means(figures, subjects, **bootstrap_options(self.settings))

    def cohort(self, staging: Path, verdict: "Verdict") -> None:
        """Explain the cohort."""
        from ehrseq.explain.cohort import Cohort, explained
        from ehrseq.explain.cohort_figures import draw_importance
        from ehrseq.explain.histories import StaticCodes
        from ehrseq.explain.judge import CHUNK

        explainers = self._make(self.model)
        driver = _driver(verdict, [explainer.name for explainer in explainers if explainer.signed])
        names = self.representation.names
        cohort = Cohort((*names, *StaticCodes.of(self.store).names), len(names))
        tables, preprocessor = [], self.trained.preprocessor()
        with (
            timed(f"explain: {len(self.samples):,} histories by {len(explainers)} explainers"),
            progress("explaining histories", -(-len(self.samples) // CHUNK)) as each,
        ):
            for histories, found in explained(explainers, self.representation, self.samples, self.device, each):
                cohort.add(histories, found, driver)
                tables.append(self._events(histories, found, preprocessor))
        pl.concat(tables).write_parquet(staging / ATTRIBUTIONS)
        options, subjects = bootstrap_options(self.settings), self.store.subjects_of(self.samples)
        importance = cohort.importance(subjects, **options)
        importance.write_parquet(staging / IMPORTANCE)
        draw_importance(importance, driver, self._glossary(), staging / "importance.png")
        cohort.subgroups(driver, subjects, **options).write_parquet(staging / SUBGROUPS)
        self._dependence(cohort, importance, driver, staging)

    def _dependence(self, cohort: "Cohort", importance: pl.DataFrame, driver: str, staging: Path) -> None:
        from ehrseq.explain.cohort_figures import draw_dependence

        numeric = {code for code, flag in zip(self.store.codes, self.store.numeric, strict=True) if flag}
        ranked = importance.filter(pl.col("explainer") == driver, pl.col("kind") == "code").sort("rank")["name"]
        first = [code for code in ranked if code in numeric][:_CURVES]
        table = cohort.dependence(first, self.settings.evaluate.level)
        order = pl.DataFrame({"code": first, "rank": range(len(first))}, schema_overrides={"code": pl.String})
        table = table.join(order, on="code").sort("rank", "group")
        entry = np.array([self.store.codes.index(code) for code in table["code"]], np.int64)
        amount: NDArray[np.float64] | list[float]
        amount = self.trained.preprocessor().restore(entry, table["value"].to_numpy()) if len(entry) else []
        table = table.drop("rank").with_columns(pl.Series("amount", amount, dtype=pl.Float64))
        table.write_parquet(staging / DEPENDENCE)
        draw_dependence(table, self._glossary(), driver, staging / "dependence.png")

    def people(self, staging: Path, verdict: "Verdict", scores: pl.DataFrame) -> None:
        """Explain some persons."""
        from ehrseq.explain.attention import choose_histories
        from ehrseq.explain.figures import draw_timeline
        from ehrseq.explain.page import write_page
        from ehrseq.explain.person import explain_person
        from ehrseq.explain.verdict import words_for

        explainers = {explainer.name: explainer for explainer in self._make(self.model) if explainer.signed}
        if not explainers or not self.settings.explain.timelines:
            return
        driver = explainers[_driver(verdict, list(explainers))]
        target, preprocessor, glossary = self.trained.target(), self.trained.preprocessor(), self._glossary()
        first = columns_of(target.parts)[0].outcomes.stop if isinstance(target, SeveralTarget) else 0
        chosen = choose_histories(scores, self.store, self.settings.explain.timelines, first - 1)
        with timed(f"explain: {len(chosen)} timelines"):
            for number, sample in enumerate(chosen, start=1):
                person = explain_person(driver, self.representation, preprocessor, sample, self.device)
                outcome = describe_outcome(target, self.store.arrays.sample_label[sample])
                title = f"History {number} of {len(chosen)}: predicted risk {person.risk:.2f}, outcome {outcome}"
                words, name = words_for(driver.name), f"timeline_{number:02d}"
                draw_timeline(person, glossary, title, words, staging / f"{name}.png")
                write_page(person, glossary, title, words, verdict.sentence, staging / f"{name}.html")

    def _make(self, model: "SequenceModel") -> list["Explainer"]:
        from ehrseq.explain.registry import make_explainers

        options = self.settings.explain
        return make_explainers(options.explainers, model, options.steps, options.window_hours, options.replacement)

    def _glossary(self) -> "Glossary":
        from ehrseq.explain.person import Glossary

        path = self.prepared.dataset / schema.CODES_FILE
        codes = pl.read_parquet(path) if path.is_file() else None
        return Glossary.of(self.trained.preprocessor(), codes)

    def _events(
        self, histories: "Histories", found: dict[str, "Attribution"], preprocessor: "Preprocessor"
    ) -> pl.DataFrame:
        """A row an event, a column an explainer; events that share a part share its number."""
        links, arrays, store = histories.links, self.store.arrays, self.store
        samples = histories.batch.samples.cpu().numpy()[links.row]
        width = histories.parts
        number = np.bincount(links.row * width + links.part, minlength=len(histories) * width)
        share = 1 / np.maximum(number, 1)[links.row * width + links.part]
        code = arrays.code[links.event]
        value = preprocessor.restore(code, arrays.value[links.event].astype(np.float64))
        columns: dict[str, Any] = {
            "subject_id": store.subjects_of(samples),
            "prediction_time": pl.Series(arrays.sample_time[samples]).cast(pl.Datetime("us")),
            "time": pl.Series(arrays.time[links.event]).cast(pl.Datetime("us")),
            "code": pl.Series(store.codes, dtype=pl.String).gather(code),
            "numeric_value": pl.Series(value, nan_to_null=True, dtype=pl.Float64),
        }
        for name, attribution in found.items():
            columns[name] = attribution.parts.cpu().numpy()[links.row, links.part] * share
        return pl.DataFrame(columns)


def _driver(verdict: "Verdict", signed: list[str]) -> str:
    """The explainer that pictures show: one that sums to the score, or the best of those with signs."""
    if _SUMS in verdict.believed:
        return _SUMS
    return next((name for name in verdict.ranking if name in signed), verdict.ranking[0])
