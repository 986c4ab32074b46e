"""Forecasts on a store: the same outcomes as a slow loop, blind to what comes later, learned, and judged."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from numpy.typing import NDArray

from ehrseq.config.load import load_settings
from ehrseq.config.schema import Settings
from ehrseq.data import Forecasts, HistoryDataset, StepBatch, represent
from ehrseq.nn import ForecastObjective, SequenceModel
from ehrseq.store import Store
from ehrseq.training.forecasting import Anomalies, forecast
from ehrseq.workflows import prepare
from ehrseq.workflows.build import build_model
from ehrseq.workflows.forecasts import evaluate_forecasts
from ehrseq.workflows.learn import learn
from ehrseq.workflows.scorers import ForecastScorer

FORECAST = ["task=forecast", "outputs=steps", "explain=none", "model/pooling=last"]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], prepare.Prepared]:
    folder = tmp_path_factory.mktemp("forecasts")
    words = [*FORECAST, "source.n_subjects=200", "representation.bin_hours=2", f"paths.data={folder}"]
    return words, prepare.run(load_settings(words))


def forecasts_of(store: Store, settings: Settings, horizon: int) -> Forecasts:
    representation = represent(store, settings.representation, "steps", horizon)
    assert isinstance(representation, Forecasts)
    return representation


def network(settings: Settings, store: Store) -> SequenceModel:
    torch.manual_seed(0)
    sizes = len(store.codes), len(store.statics)
    return build_model(settings.model, settings.task.target, settings.loss, *sizes).eval()


@pytest.mark.parametrize("aggregate", ["mean", "last"])
def test_outcomes_are_the_values_of_the_next_steps(
    aggregate: str, synthetic: tuple[list[str], prepare.Prepared]
) -> None:
    words, prepared = synthetic
    settings = load_settings([*words, f"representation.aggregate={aggregate}", "representation.max_steps=20"])
    store = prepared.open()
    # Some events of measured codes come without a number.
    event = store.arrays.event.copy()
    event["value"][np.random.default_rng(0).random(len(event)) < 0.05] = np.nan
    store = replace(store, arrays=replace(store.arrays, event=event))
    horizon, features = 3, len(store.codes)
    forecasts = forecasts_of(store, settings, horizon)
    samples = store.samples("train")[:25]
    batch = forecasts.cut(samples)
    seen = 0
    for row, sample in enumerate(samples):
        end, steps = store.arrays.sample_time[sample], int(batch.lengths[row])
        cells: dict[tuple[int, int], list[float]] = {}
        for one in event[store.arrays.sample_begin[sample] : store.arrays.sample_end[sample]]:
            step = steps - 1 - int(end - one["time"]) // forecasts.grid.width
            if store.numeric[one["code"]]:
                cells.setdefault((step, int(one["code"])), []).append(float(one["value"]))
        expected = np.full((batch.steps, horizon, features), np.nan)
        for (step, code), values in cells.items():
            for ahead in range(1, horizon + 1):
                if step - ahead >= 0:
                    value = np.mean(values) if aggregate == "mean" else values[-1]
                    expected[step - ahead, ahead - 1, code] = np.nan if np.isnan(values).any() else value
        np.testing.assert_allclose(batch.targets[row].numpy(), expected.reshape(batch.steps, -1), rtol=1e-5, atol=1e-6)
        seen += int((~np.isnan(expected)).sum())
    assert seen > 1000


def test_steps_have_numbers_and_times_of_their_own(synthetic: tuple[list[str], prepare.Prepared]) -> None:
    words, prepared = synthetic
    settings, store = load_settings(words), prepared.open()
    forecasts = forecasts_of(store, settings, 1)
    dataset = HistoryDataset(forecasts, store.samples("train"))
    numbers = []
    for batch in dataset.shuffled(settings.loader, seed=0):
        assert isinstance(batch, StepBatch)
        real = torch.arange(batch.steps) < batch.lengths[:, None]
        assert torch.equal(batch.samples >= 0, real)
        assert (batch.hours_before <= 0).all()
        assert (batch.hours_before[:, 0] == 0).all()
        last = batch.samples.gather(1, batch.lengths[:, None] - 1)[:, 0].numpy()
        sample, time = forecasts.locate(last)
        np.testing.assert_array_equal(time, store.arrays.sample_time[sample])
        begin = time - (batch.lengths.numpy() - 1) * forecasts.grid.width
        np.testing.assert_array_equal(forecasts.locate(batch.samples[:, 0].numpy())[1], begin)
        numbers.append(batch.samples[real].numpy())
    every = np.concatenate(numbers)
    assert len(np.unique(every)) == len(every) == dataset.lengths.sum()
    # Whoever else is asked for, a step keeps its number.
    alone = forecasts.cut(store.samples("train")[7:8])
    assert set(alone.samples.flatten().tolist()) <= set(every.tolist())


def test_what_comes_later_changes_no_forecast(synthetic: tuple[list[str], prepare.Prepared]) -> None:
    words, prepared = synthetic
    settings, store = load_settings(words), prepared.open()
    model = network(settings, store)
    samples = store.samples("held_out")[:20]
    event, rng = store.arrays.event.copy(), np.random.default_rng(0)
    lengths = forecasts_of(store, settings, 1).lengths(samples)
    cut = {}
    for sample, length in zip(samples, lengths, strict=True):
        kept = int(rng.integers(1, length))
        cut[int(sample)] = kept
        limit = store.arrays.sample_time[sample] - (length - kept) * 2 * 3_600_000_000
        mine = np.arange(store.arrays.sample_begin[sample], store.arrays.sample_end[sample])
        later = mine[event["time"][mine] > limit]
        event["value"][later] = rng.normal(size=len(later)) * 3
        event["code"][later] = rng.integers(0, len(store.codes), len(later))
    changed = replace(store, arrays=replace(store.arrays, event=event))
    outputs = []
    for one in (store, changed):
        batch = forecasts_of(one, settings, 1).cut(samples)
        with torch.inference_mode():
            outputs.append(model.at_steps(batch).output)
    before = torch.arange(outputs[0].shape[1]) < torch.tensor([cut[int(sample)] for sample in samples])[:, None]
    assert torch.equal(outputs[0][before], outputs[1][before])
    real = torch.arange(outputs[0].shape[1]) < torch.from_numpy(lengths)[:, None]
    assert (outputs[0][real & ~before] != outputs[1][real & ~before]).any()


def test_surprise_is_the_mean_over_what_was_measured_given_the_past(
    synthetic: tuple[list[str], prepare.Prepared],
) -> None:
    words, prepared = synthetic
    settings, store = load_settings([*words, "task.target.horizon=2"]), prepared.open()
    model = network(settings, store)
    objective = model.objective
    assert isinstance(objective, ForecastObjective)
    forecasts, samples = forecasts_of(store, settings, 2), store.samples("held_out")
    found = ForecastScorer(model, settings.representation, 2).anomalies(store, samples, settings)
    histories = found.of_histories(forecasts, samples)
    for sample, history in zip(samples[:15], histories[:15], strict=True):
        batch = forecasts.cut(np.array([sample]))
        with torch.inference_mode():
            mean, deviation = objective.distribution(model.at_steps(batch).output)
        surprise = [float("nan")]
        for step in range(batch.steps - 1):
            losses = []
            for feature in range(len(store.codes)):
                value = float(batch.targets[0, step, feature])
                if not np.isnan(value):
                    normal = torch.distributions.Normal(mean[0, step, feature], deviation[0, step, feature])
                    losses.append(-float(normal.log_prob(torch.tensor(value))))  # type: ignore[no-untyped-call]
            surprise.append(float(np.mean(losses)) if losses else float("nan"))
        np.testing.assert_allclose(found.surprise[found.sample == sample], surprise, rtol=1e-4, atol=1e-5)
        assert history == pytest.approx(np.nanmean(surprise), rel=1e-4)


def test_earlier_histories_are_judged_by_the_steps_they_hold(tmp_path: Path) -> None:
    base = prepare.run(load_settings(["source.n_subjects=200", f"paths.data={tmp_path}"]))
    last = pl.read_parquet(base.dataset / "labels" / "**" / "*.parquet").select("subject_id", "prediction_time")
    # Not whole bins apart, and without outcomes.
    back = pl.DataFrame({"back": [0, 150, 600, 100_000]})
    times = last.join(back, how="cross").select(
        "subject_id", pl.col("prediction_time") - pl.duration(minutes=pl.col("back"))
    )
    times.write_parquet(tmp_path / "times.parquet")
    words = [
        *FORECAST,
        "source=meds",
        f"source.path={base.dataset}",
        f"+task.labels={{_target_: ehrseq.tasks.LabelFiles, path: {tmp_path}/times.parquet}}",
    ]
    settings = load_settings([*words, f"paths.data={tmp_path}"])
    store = prepare.run(settings).open()
    assert np.isnan(store.arrays.sample_label).all()
    samples = store.samples("tuning")
    forecasts = forecasts_of(store, settings, 1)
    found = ForecastScorer(network(settings, store), settings.representation, 1).anomalies(store, samples, settings)
    histories = found.of_histories(forecasts, samples)
    owner = store.arrays.sample_subject
    for sample, history in zip(samples, histories, strict=True):
        mine = (owner[found.sample] == owner[sample]) & (found.time <= store.arrays.sample_time[sample])
        known = found.surprise[mine][~np.isnan(found.surprise[mine])]
        if len(known):
            assert history == pytest.approx(known.mean())
        else:
            assert np.isnan(history)
    assert 0.2 < np.isnan(histories).mean() < 0.3  # those that end long before anything happened
    backwards = found.of_histories(forecasts, samples[::-1])
    np.testing.assert_array_equal(backwards, histories[::-1])


def regressive(folder: Path, subjects: int = 240, steps: int = 30) -> tuple[list[str], NDArray[np.float64]]:
    """Two series an hour apart that swing back to their mean, one of them after the other."""
    rng = np.random.default_rng(0)
    lead, follow = np.zeros((subjects, steps)), np.zeros((subjects, steps))
    for step in range(1, steps):
        lead[:, step] = 0.3 * lead[:, step - 1] + rng.normal(size=subjects)
        follow[:, step] = 0.8 * lead[:, step - 1] + 0.2 * rng.normal(size=subjects)
    start = np.datetime64("2020-01-01T00:30", "us")
    time = start + np.arange(steps) * np.timedelta64(1, "h")
    events = [
        pl.DataFrame(
            {
                "subject_id": np.repeat(np.arange(subjects), steps),
                "time": np.tile(time, subjects),
                "code": code,
                "numeric_value": (centre + 7 * values).ravel().astype(np.float32),
            }
        )
        for code, centre, values in (("LEAD", 50, lead), ("FOLLOW", 90, follow))
    ]
    (folder / "meds" / "data").mkdir(parents=True)
    pl.concat(events).sort("subject_id", "time").write_parquet(folder / "meds" / "data" / "0.parquet")
    labels = pl.DataFrame({"subject_id": np.arange(subjects), "prediction_time": [time[-1].item()] * subjects})
    labels = labels.with_columns(pl.col("prediction_time").cast(pl.Datetime("us")))
    labels.write_parquet(folder / "times.parquet")
    words = [*FORECAST, "source=meds", f"source.path={folder}/meds", f"paths.data={folder}/store"]
    words += [f"+task.labels={{_target_: ehrseq.tasks.LabelFiles, path: {folder}/times.parquet}}"]
    return words, follow


def test_a_forecaster_learns_what_carrying_forward_does_not_know(tmp_path: Path) -> None:
    words, _ = regressive(tmp_path)
    quick = [
        "trainer.max_epochs=12",
        "optim.optimizer.lr=0.02",
        "model.embedding.input_dropout=0",
        "model.head.dropout=0",
        "optim.weight_averaging=null",
    ]
    settings = load_settings([*words, *quick, "model.encoder.hidden_size=16"])
    prepared = prepare.run(settings)
    store = prepared.open()
    losses: list[float] = []
    model, _ = learn(settings, store, tmp_path, lambda figures, _: losses.append(figures["tuning/mae"]))
    assert losses[-1] < losses[0]
    scorer = ForecastScorer(model, settings.representation, 1)
    samples = store.samples("held_out")
    (tmp_path / "out").mkdir()
    options = {"replicates": 20, "seed": 0, "level": 0.95}
    found, anomaly = evaluate_forecasts(
        settings, store, scorer, prepared.preprocessor(), samples, tmp_path / "out", **options
    )
    # The best there is of FOLLOW, from the last value of LEAD, is 7 * 0.2 * 0.8 = 1.1; the last of its own gives 6.4.
    table = pl.read_parquet(tmp_path / "out" / "forecasts.parquet")
    follow = table.filter(pl.col("code") == "FOLLOW")
    error = (follow["value"] - follow["prediction"]).abs().mean()
    assert isinstance(error, float)
    assert error < 1.8
    assert found["mae_FOLLOW"].value == pytest.approx(error, rel=1e-6)
    assert found["skill"].value is not None
    assert found["skill"].ci_low is not None
    assert found["skill"].ci_low > 0.3
    assert found["coverage_90"].value == pytest.approx(0.9, abs=0.05)
    inside = ((table["value"] >= table["low"]) & (table["value"] <= table["high"])).mean()
    assert found["coverage_90"].value == pytest.approx(inside, abs=1e-3)
    assert np.isfinite(anomaly).all()
    steps = pl.read_parquet(tmp_path / "out" / "anomaly.parquet")
    assert steps.height == HistoryDataset(forecasts_of(store, settings, 1), samples).lengths.sum()
    assert table.height == 2 * (steps.height - len(samples))


def test_batches_do_not_change_what_is_foretold(synthetic: tuple[list[str], prepare.Prepared]) -> None:
    words, prepared = synthetic
    settings, store = load_settings(words), prepared.open()
    forecasts, samples = forecasts_of(store, settings, 1), store.samples("held_out")
    found: list[Anomalies] = []
    for size in (3, 512):
        loader = HistoryDataset(forecasts, samples).ordered(
            settings.loader.model_copy(update={"eval_batch_size": size})
        )
        parts = [batch.surprises() for batch in forecast(network(settings, store), loader, CPU)]
        found.append(Anomalies.collect(forecasts, *(np.concatenate(part) for part in zip(*parts, strict=True))))
    np.testing.assert_array_equal(found[0].time, found[1].time)
    np.testing.assert_allclose(found[0].surprise, found[1].surprise, rtol=1e-4, atol=1e-5)
