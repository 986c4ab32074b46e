"""An output at every step: the same as of each history alone, blind to what comes later, and learned from."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from numpy.typing import NDArray

from ehrseq.baselines import find_thresholds
from ehrseq.config.load import load_settings
from ehrseq.config.representation import GridConfig
from ehrseq.config.schema import Outputs, Settings
from ehrseq.data import HistoryDataset, StepBatch, StepHistories, represent
from ehrseq.errors import ConfigError, DataError
from ehrseq.explain.gradients import IntegratedGradients
from ehrseq.explain.registry import cut_histories
from ehrseq.nn import SequenceModel, read_batch
from ehrseq.store import Store
from ehrseq.training import inference
from ehrseq.workflows import experiment, explain, prepare
from ehrseq.workflows.build import build_model
from ehrseq.workflows.learn import learn, set_up
from ehrseq.workflows.runs import open_run

WORDS = ["outputs=steps", "model/pooling=max", "model.pooling.with_last=true"]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def hourly(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Store]:
    """Synthetic stays with a prediction at each hour of their last day: was the heart rate high just now?"""
    folder = tmp_path_factory.mktemp("hourly")
    base = prepare.run(load_settings(["source.n_subjects=300", f"paths.data={folder / 'data'}"]))
    last = pl.read_parquet(base.dataset / "labels" / "**" / "*.parquet").select("subject_id", "prediction_time")
    back = pl.DataFrame({"back": range(24)})
    hours = last.join(back, how="cross").select(
        "subject_id", pl.col("prediction_time") - pl.duration(hours=pl.col("back"))
    )
    events = pl.read_parquet(base.dataset / "data" / "**" / "*.parquet")
    events = events.filter(pl.col("code").str.contains("heart_rate"))
    events = events.select("subject_id", "time", "numeric_value").sort("time")
    joined = hours.sort("prediction_time").join_asof(
        events, left_on="prediction_time", right_on="time", by="subject_id", check_sortedness=False
    )
    labels = joined.select(
        "subject_id", "prediction_time", (pl.col("numeric_value").fill_null(0) > 95).alias("boolean_value")
    )
    labels.sort("subject_id", "prediction_time").write_parquet(folder / "labels.parquet")
    words = ["source=meds", f"source.path={base.dataset}", "task=labels", f"task.labels.path={folder}/labels.parquet"]
    words += ["task.name=hourly", f"paths.data={folder / 'data'}"]
    return words, prepare.run(load_settings(words)).open()


def network(settings: Settings, store: Store) -> SequenceModel:
    torch.manual_seed(0)
    names, statics = len(store.codes), len(store.statics)
    net = build_model(settings.model, settings.task.target, settings.loss, names, statics).eval()
    assert net.summary is not None
    if count := net.summary.thresholds:
        net.summary.place(torch.randint(net.summary.numbers, (count,)), torch.randn(count) / 2)
    return net


@pytest.mark.parametrize("model", ["lstm", "gru", "conv_lstm"])
@pytest.mark.parametrize("pooling", ["last", "mean", "max"])
def test_each_step_says_what_the_history_that_ends_there_would(
    model: str, pooling: str, hourly: tuple[list[str], Store]
) -> None:
    words, store = hourly
    settings = load_settings([*words, "outputs=steps", "explain=none", f"model={model}", f"model/pooling={pooling}"])
    net = network(settings, store)
    samples = store.samples("held_out")
    scores = []
    kinds: tuple[Outputs, Outputs] = ("last", "steps")
    for outputs in kinds:
        dataset = HistoryDataset(represent(store, settings.representation, outputs), samples)
        scores.append(inference.score(net, dataset.ordered(settings.loader), CPU))
    alone, together = scores
    assert together.samples.tolist() == alone.samples.tolist() == samples.tolist()
    # A prediction before the first event has one empty step alone, and leading empty steps in its trajectory.
    arrays = store.arrays
    begun = arrays.sample_end[samples] > arrays.sample_begin[samples]
    first = np.array([arrays.sample_end[s] > arrays.sample_begin[s] for s in first_of_subject(store, samples)])
    same = begun & first
    assert same.mean() > 0.8
    np.testing.assert_allclose(together.prediction[same], alone.prediction[same], atol=1e-5)


def first_of_subject(store: Store, samples: NDArray[np.int64]) -> NDArray[np.int64]:
    subject = store.arrays.sample_subject
    return np.array([np.searchsorted(subject, subject[sample]) for sample in samples])


@pytest.mark.parametrize("more", [[], ["model.summary.thresholds=300", "model.summary.added=true"]])
def test_changing_what_comes_later_changes_no_earlier_output(hourly: tuple[list[str], Store], more: list[str]) -> None:
    words, store = hourly
    settings = load_settings([*words, *WORDS, *more])
    net = network(settings, store)
    subjects = np.unique(store.arrays.sample_subject[store.samples("held_out")])[:20]
    rng = np.random.default_rng(0)
    event = store.arrays.event.copy()
    cut = {}
    for subject in subjects:
        numbers = np.flatnonzero(store.arrays.sample_subject == subject)
        cut[subject] = store.arrays.sample_time[rng.choice(numbers)]
        mine = np.arange(store.arrays.begin[subject], store.arrays.end[subject])
        later = mine[event["time"][mine] > cut[subject]]
        event["value"][later] = rng.normal(size=len(later)) * 3
        event["code"][later] = rng.integers(0, len(store.codes), len(later))
    changed = replace(store, arrays=replace(store.arrays, event=event))
    samples = np.flatnonzero(np.isin(store.arrays.sample_subject, subjects))
    found = [
        inference.score(
            net, HistoryDataset(represent(s, settings.representation, "steps"), samples).ordered(settings.loader), CPU
        )
        for s in (store, changed)
    ]
    limit = np.array([cut[subject] for subject in store.arrays.sample_subject[samples]])
    before = store.arrays.sample_time[samples] <= limit
    np.testing.assert_array_equal(found[0].prediction[before], found[1].prediction[before])
    assert (found[0].prediction[~before] != found[1].prediction[~before]).any()


def test_every_prediction_is_in_one_batch_with_its_own_outcome(hourly: tuple[list[str], Store]) -> None:
    words, store = hourly
    settings = load_settings([*words, *WORDS])
    dataset = HistoryDataset(represent(store, settings.representation, "steps"), store.samples("train"))
    seen = []
    for batch in dataset.shuffled(settings.loader, seed=0):
        assert isinstance(batch, StepBatch)
        here = batch.samples >= 0
        assert torch.equal(batch.targets[here], torch.from_numpy(store.arrays.sample_label[batch.samples[here]]))
        assert batch.targets[~here].isnan().all()
        assert (batch.hours_before <= 0).all()
        rows = torch.arange(len(batch))[:, None].expand_as(batch.samples)[here]
        own = store.arrays.sample_subject[batch.samples[here].numpy()]
        assert len(np.unique(np.stack([rows.numpy(), own]), axis=1).T) == len(batch)
        seen.append(batch.samples[here].numpy())
    assert sorted(np.concatenate(seen).tolist()) == store.samples("train").tolist()


@pytest.mark.parametrize("more", [[], ["model.summary.thresholds=300", "model.summary.added=true"]])
def test_what_is_said_at_some_steps_is_what_is_said_there_of_all(
    hourly: tuple[list[str], Store], more: list[str]
) -> None:
    words, store = hourly
    settings = load_settings([*words, *WORDS, *more])
    net = network(settings, store)
    dataset = HistoryDataset(represent(store, settings.representation, "steps"), store.samples("held_out"))
    batch = next(iter(dataset.ordered(settings.loader)))
    assert isinstance(batch, StepBatch)
    torch.manual_seed(0)
    some = batch.thinned(0.3)
    there, left = batch.samples >= 0, some.samples >= 0
    assert torch.equal(some.samples[left], batch.samples[left])
    assert float(left.sum() / there.sum()) == pytest.approx(0.3, abs=0.1)
    with torch.no_grad():
        everywhere, wanted = net.at_steps(batch), net.at_steps(batch, left)
    torch.testing.assert_close(wanted.opinions[left], everywhere.opinions[left], rtol=0, atol=1e-6)


def test_a_batch_learns_from_its_share_of_the_predictions(hourly: tuple[list[str], Store]) -> None:
    words, store = hourly
    settings = load_settings([*words, *WORDS, "loss.outputs_share=0.25", "model.next_values=null"])
    training = set_up(settings, store)
    seen: list[int] = []
    terms = training.module.model.terms
    training.module.model.terms = lambda opinions, *rest: (seen.append(len(opinions)), terms(opinions, *rest))[1]  # type: ignore[method-assign,func-returns-value]
    batches = list(training.train)
    for batch in batches:
        training.module.training_step(batch, 0)
    assert len(seen) == len(batches)
    assert sum(seen) / sum(int((batch.samples >= 0).sum()) for batch in batches) == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize("outputs", ["last", "steps"])
def test_thresholds_are_those_of_what_is_learned(hourly: tuple[list[str], Store], outputs: str) -> None:
    """By all rows, where there are so few; and the network is the same each time."""
    words, store = hourly
    settings = load_settings([*words, *WORDS, f"outputs={outputs}", "explain=none", "model.summary.thresholds=50"])
    net = set_up(settings, store).module.model
    summary = net.summary
    assert summary is not None
    dataset = HistoryDataset(represent(store, settings.representation, settings.outputs), store.samples("train"))
    rows, learned = [], []
    for batch in dataset.chunks():
        numbers = summary.standardised(read_batch(batch, summary.reads), outputs == "steps")
        rows.append(inference.here(batch, numbers).numpy())
        learned.append(inference.here(batch, batch.targets)[:, 0].numpy())
    assert len(np.concatenate(learned)) == len(store.samples("train"))
    column, threshold = find_thresholds(np.concatenate(rows), np.concatenate(learned), 50, settings.seed)
    np.testing.assert_array_equal(summary.column[: len(column)].numpy(), column)
    np.testing.assert_array_equal(summary.threshold[: len(column)].numpy(), threshold)
    again = set_up(settings, store).module.model.state_dict()
    for name, weight in net.state_dict().items():
        assert torch.equal(again[name], weight), name


def test_steps_are_learned_from(hourly: tuple[list[str], Store], tmp_path: Path) -> None:
    words, store = hourly
    settings = load_settings([*words, *WORDS, "trainer.max_epochs=15", "optim.optimizer.lr=0.01"])
    net, fitted = learn(settings, store, tmp_path, lambda *_: None)
    dataset = HistoryDataset(represent(store, settings.representation, "steps"), store.samples("held_out"))
    scores = inference.score(net, dataset.ordered(settings.loader), CPU)
    label = store.arrays.sample_label[scores.samples, 0]
    right = scores.prediction[label == 1, 0].mean() - scores.prediction[label == 0, 0].mean()
    assert right > 0.3
    assert fitted.score < 0.5


def test_a_prediction_on_the_way_is_cut_as_its_trajectory_has_it(hourly: tuple[list[str], Store]) -> None:
    words, store = hourly
    settings = load_settings([*words, *WORDS])
    assert isinstance(settings.representation, GridConfig)
    net, samples = network(settings, store), store.samples("held_out")
    dataset = HistoryDataset(represent(store, settings.representation, "steps"), samples)
    together = inference.score(net, dataset.ordered(settings.loader), CPU)
    alone = HistoryDataset(StepHistories(store, settings.representation), samples)
    scores = inference.score(net, alone.ordered(settings.loader), CPU)
    assert scores.samples.tolist() == together.samples.tolist() == samples.tolist()
    np.testing.assert_allclose(scores.prediction, together.prediction, atol=1e-6)
    histories = cut_histories(alone.representation, samples[:60])
    age = store.arrays.sample_time[samples[histories.links.row]] - store.arrays.time[histories.links.event]
    assert (age >= 0).all()
    explained = IntegratedGradients(net, 32).attribute(histories)
    whole = torch.from_numpy(together.prediction[:60, 0]).logit()
    assert explained.rest is not None
    error = (explained.parts.sum(1) + explained.rest - whole).abs().sum()
    assert error < 0.01 * (whole - explained.rest).abs().sum()


def test_explaining_outputs_at_every_step(hourly: tuple[list[str], Store], tmp_path: Path) -> None:
    words, store = hourly
    small = ["trainer.max_epochs=1", "tracking=none", "evaluate.figures=false", "evaluate.replicates=0"]
    small += ["explain.samples=8", "explain.judged=4", "explain.timelines=1", "explain.steps=4"]
    small += ["explain.explainers=[gradient_x_input]", "model.encoder.hidden_size=8", "model.summary=null"]
    settings = load_settings([*words, *WORDS, *small, "explain=quick", f"paths.runs={tmp_path}"])
    done = experiment.run(settings)
    prepared, trained = prepare.run(settings), open_run(done.folder)
    time, subjects = store.arrays.sample_time, store.subjects_of(np.arange(len(store.arrays.sample_time)))
    latest = dict(zip(subjects.tolist(), time.tolist(), strict=True))  # samples of a subject stand in order of time

    def hours_before_the_last() -> set[int]:
        table = pl.read_parquet(done.folder / "explain" / "attributions.parquet")
        assert (table["time"] <= table["prediction_time"]).all()
        assert table["subject_id"].n_unique() == 8
        last = pl.Series([latest[subject] for subject in table["subject_id"].to_list()]).cast(pl.Datetime("us"))
        return set((last - table["prediction_time"]).dt.total_hours().to_list())

    assert hours_before_the_last() == {0}
    asked = settings.explain.model_copy(update={"prediction": -3})
    explain.run(settings.model_copy(update={"explain": asked}), prepared, trained)
    assert hours_before_the_last() == {2}
    nobody = settings.explain.model_copy(update={"prediction": 24})
    with pytest.raises(DataError, match=r"explain\.prediction=24: nobody in held_out has so many predictions"):
        explain.run(settings.model_copy(update={"explain": nobody}), prepared, trained)


def test_replicated_targets_are_learned_at_the_end(tmp_path: Path) -> None:
    words = ["source.n_subjects=300", f"paths.data={tmp_path}", "model/pooling=last", "trainer.max_epochs=2"]
    settings = load_settings([*words, "loss.target_replication=0.5"])
    losses: list[float] = []
    learn(settings, prepare.run(settings).open(), tmp_path, lambda figures, _: losses.append(figures["train/loss"]))
    assert losses[1] < losses[0]


def test_predictions_between_bins_are_refused(hourly: tuple[list[str], Store]) -> None:
    words, store = hourly
    for word, message in (
        ("representation.bin_hours=3", "predictions of a subject are not whole bins apart"),
        ("representation.max_steps=10", "representation.max_steps=10 cuts predictions off; 24 or more keeps them all"),
    ):
        settings = load_settings([*words, *WORDS, word])
        with pytest.raises(ConfigError, match=message):
            HistoryDataset(represent(store, settings.representation, "steps"), store.samples("train"))[np.arange(4)]
