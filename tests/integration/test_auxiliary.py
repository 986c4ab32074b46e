"""What a network learns beside its target: it helps, steers nothing, and is gone from the finished network."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from scipy.stats import spearmanr
from sklearn.metrics import log_loss, roc_auc_score
from torch.nn import functional

from ehrseq.audit.shuffled import permute_labels
from ehrseq.config.load import load_settings
from ehrseq.config.schema import Settings
from ehrseq.config.targets import read_parts, read_target
from ehrseq.data import HistoryDataset, represent
from ehrseq.errors import ConfigError, DataError
from ehrseq.nn import SequenceModel
from ehrseq.store import Arrays, Store
from ehrseq.training import inference
from ehrseq.training.fit import fit
from ehrseq.training.inference import auxiliary_of, look
from ehrseq.workflows import prepare
from ehrseq.workflows.build import build_model
from ehrseq.workflows.learn import learn, set_up

Command = Callable[..., "subprocess.CompletedProcess[str]"]
CPU = torch.device("cpu")


def words_of(folder: Path) -> list[str]:
    """A task with two auxiliary targets, one of some histories only."""
    part = "{{labels:{{_target_:ehrseq.tasks.LabelFiles,path:{}}},target:{{kind:{}}},weight:{}}}"
    severity = part.format(folder / "severity.parquet", "regression", 0.5)
    group = part.format(folder / "group.parquet", "multiclass", 0.25)
    return [
        *("source.n_subjects=400", "explain=none", f"paths.data={folder / 'data'}", "trainer.max_epochs=3"),
        *("trainer.accelerator=cpu", "evaluate.replicates=0", "evaluate.figures=false"),
        *(f"+task.auxiliary.severity={severity}", f"+task.auxiliary.group={group}"),
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("auxiliary")
    plain = load_settings(["source.n_subjects=400", "explain=none", f"paths.data={folder / 'data'}"])
    labels = pl.read_parquet(prepare.run(plain).dataset / "labels" / "**" / "*.parquet")
    rng = np.random.default_rng(0)
    keys = labels.select("subject_id", "prediction_time")
    value = 10 + 4 * labels["boolean_value"].cast(pl.Float64).to_numpy() + rng.normal(size=labels.height)
    severity = keys.with_columns(pl.Series("float_value", value, pl.Float32)).sample(fraction=1, shuffle=True, seed=1)
    elsewhere = severity.with_columns(pl.col("prediction_time").dt.offset_by("1h"))
    pl.concat([severity[:300], elsewhere]).write_parquet(folder / "severity.parquet")
    group = np.where(value < 10, "low", np.where(value < 13, "middle", "high"))
    keys.with_columns(pl.Series("categorical_value", group)).write_parquet(folder / "group.parquet")
    return folder


@pytest.fixture(scope="module")
def settings(folder: Path) -> Settings:
    return load_settings(words_of(folder))


@pytest.fixture(scope="module")
def store(settings: Settings) -> Store:
    return prepare.run(settings).open()


def network(settings: Settings, store: Store, with_auxiliary: bool = True) -> SequenceModel:
    torch.manual_seed(0)
    parts = read_parts(store.meta["auxiliary"]) if with_auxiliary else {}
    sizes = len(store.codes), len(store.statics)
    return build_model(settings.model, read_target(store.meta["target"]), settings.loss, *sizes, parts)


def test_labels_are_found_by_subject_and_time_and_the_rest_is_unknown(folder: Path, store: Store) -> None:
    arrays = store.arrays
    known = pl.read_parquet(folder / "severity.parquet")
    times = arrays.sample_time.astype("datetime64[us]").tolist()
    value = {(subject, time): number for subject, time, number in known.iter_rows()}
    samples = zip(store.subjects_of(np.arange(len(times))).tolist(), times, strict=True)
    expected = [value.get(key, np.nan) for key in samples]
    assert list(store.meta["auxiliary"]) == ["group", "severity"]
    np.testing.assert_array_equal(arrays.sample_auxiliary[:, 1], np.array(expected, np.float32))
    assert np.isnan(expected).sum() == len(expected) - 300
    assert set(arrays.sample_auxiliary[:, 0]) == {0, 1, 2}
    assert store.meta["auxiliary"]["group"]["target"]["classes"] == ["high", "low", "middle"]


def test_permuted_labels_take_them_along(store: Store) -> None:
    def table(arrays: Arrays) -> NDArray[np.float32]:
        known = arrays.sample_label, arrays.sample_auxiliary, arrays.sample_split
        return np.nan_to_num(np.column_stack(known).astype(np.float32), nan=-1)

    before, after = table(store.arrays), table(permute_labels(store.arrays, seed=1))
    assert (before != after).any()
    np.testing.assert_array_equal(before[np.lexsort(before.T)], after[np.lexsort(after.T)])


def test_the_loss_is_the_weighted_sum_over_what_is_known(settings: Settings, store: Store) -> None:
    model = network(settings, store)
    train = HistoryDataset(represent(store, settings.representation), store.samples("train"))
    model.fit(train.outcomes, auxiliary=train.auxiliary)
    batch = train[np.arange(64)]
    prediction = look(model, batch)
    outputs, outcome = auxiliary_of(batch, prediction)
    assert outputs.shape == (64, 4)
    assert prediction.opinions.shape[-1] == prediction.output.shape[-1] == 1
    group, severity = outcome[:, 0].long(), outcome[:, 1]
    known = ~severity.isnan()
    assert 0 < int(known.sum()) < 64
    everything = torch.from_numpy(train.auxiliary[:, 1])
    everything = everything[~everything.isnan()]
    standard = (severity - everything.mean()) / everything.std(correction=0)
    apart = functional.cross_entropy(outputs[:, :3], group), functional.mse_loss(outputs[known, 3], standard[known])
    found = model.auxiliary_loss(outputs, outcome)
    assert found.item() == pytest.approx((0.25 * apart[0] + 0.5 * apart[1]).item(), abs=1e-5)
    assert model.auxiliary_loss(outputs, torch.full_like(outcome, torch.nan)).item() == 0


@pytest.mark.parametrize("model", ["lstm", "gru_d", "retain", "event_attention"])
def test_the_finished_network_is_the_one_without(model: str, folder: Path, store: Store) -> None:
    settings = load_settings([*words_of(folder), f"model={model}"])
    wide, plain = network(settings, store), network(settings, store, with_auxiliary=False)
    train = HistoryDataset(represent(store, settings.representation), store.samples("train"))
    wide.fit(train.outcomes, train.chunks(), False, train.auxiliary)
    wide.eval()
    batch = train[np.arange(16)]
    with torch.no_grad():
        before = wide(batch).output
        wide.finish()
        after = wide(batch)
        plain.load_state_dict(wide.state_dict())
        again = plain.eval()(batch).output
    assert after.auxiliary.shape[-1] == 0
    torch.testing.assert_close(before, after.output, atol=1e-6, rtol=0)
    assert torch.equal(after.output, again)


def test_only_the_outcome_steers(settings: Settings, store: Store, tmp_path: Path) -> None:
    # What is watched is the loss of the outcome alone, by which the kept epoch was the best.
    figures: list[float] = []
    model, fitted = learn(settings, store, tmp_path, lambda values, _: figures.append(values["tuning/loss"]))
    tuning = store.samples("tuning")
    dataset = HistoryDataset(represent(store, settings.representation), tuning)
    scores = inference.score(model, dataset.ordered(settings.loader), CPU)
    loss = log_loss(store.arrays.sample_label[scores.samples, 0], scores.prediction[:, 0])
    assert fitted.score == pytest.approx(loss, abs=1e-5)
    assert fitted.score == pytest.approx(min(figures), abs=1e-9)


def test_what_is_learned_beside_is_learned(folder: Path, store: Store, tmp_path: Path) -> None:
    words = ("trainer.max_epochs=25", "trainer.patience=null", "optim.weight_averaging=null")
    settings = load_settings([*words_of(folder), *words])
    training = set_up(settings, store)
    options = settings.trainer, tmp_path, lambda *_: None, settings.optim.weight_averaging
    model = training.module.model
    model.load_state_dict(fit(training.module, training.train, training.tuning, *options).weights)
    held = HistoryDataset(represent(store, settings.representation), store.samples("held_out"))
    batch = held[np.arange(len(held))]
    with torch.no_grad():
        outputs, outcome = auxiliary_of(batch, look(model.eval(), batch))
    severity, high = outcome[:, 1].numpy(), outcome[:, 0].numpy() == 0
    known, told = ~np.isnan(severity), outputs.numpy()
    assert spearmanr(told[known, 3], severity[known]).statistic > 0.3
    assert roc_auc_score(high, told[:, 0]) > 0.65


def test_trained_and_predicted_by_the_commands(folder: Path, store: Store, tmp_path: Path, ehrseq: Command) -> None:
    words = [*words_of(folder), "trainer.max_epochs=1"]
    done = ehrseq("train", *words, "paths.runs=runs", "recalibration=platt", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run = next((tmp_path / "runs").iterdir())
    told = ehrseq("predict", f"run={run}", "source.n_subjects=100", "output=told.parquet", cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    assert pl.read_parquet(tmp_path / "told.parquet").columns == ["subject_id", "prediction_time", "probability"]
    plain = network(load_settings(words), store, with_auxiliary=False)
    plain.load_state_dict(load_file(run / "train" / "model.safetensors"))
    for name in ("model_card.md", "tripod_ai.md"):
        assert "lstm, learned beside: group, severity" in (run / "report" / name).read_text()


@pytest.mark.parametrize("word", ["outputs=steps", "loss.target_replication=0.5"])
def test_outputs_at_every_step_learn_them_too(word: str, folder: Path, store: Store, tmp_path: Path) -> None:
    settings = load_settings([*words_of(folder), word, "model/pooling=last", "trainer.max_epochs=1"])
    dataset = HistoryDataset(represent(store, settings.representation, settings.outputs), store.samples("train"))
    batch = dataset[np.arange(16)]
    model = network(settings, store)
    model.fit(dataset.outcomes, auxiliary=dataset.auxiliary)
    outputs, outcome = auxiliary_of(batch, look(model, batch))
    samples = batch.samples[batch.samples >= 0]
    expected = torch.from_numpy(store.arrays.sample_auxiliary[samples.numpy()])
    torch.testing.assert_close(outcome, expected, equal_nan=True, atol=0, rtol=0)
    assert outputs.shape == (len(samples), 4)
    learned, _ = learn(settings, store, tmp_path, lambda *_: None)
    assert learned.auxiliary is None


def test_what_cannot_be_is_one_line(folder: Path, tmp_path: Path) -> None:
    words = words_of(folder)
    with pytest.raises(
        ConfigError, match=r"task.auxiliary \(group, severity\): a forecast target learns from no labels"
    ):
        load_settings([*words, "task=forecast", "outputs=steps"])
    missing = load_settings([*words[:7], "+task.auxiliary.sofa={target:{kind:regression}}"])
    with pytest.raises(DataError, match=r"task.name=sofa: this source has no such labels"):
        prepare.run(missing)
    late = pl.read_parquet(folder / "group.parquet").with_columns(pl.col("prediction_time").dt.offset_by("1h"))
    late.write_parquet(tmp_path / "late.parquet")
    part = (
        f"{{labels:{{_target_:ehrseq.tasks.LabelFiles,path:{tmp_path / 'late.parquet'}}},target:{{kind:multiclass}}}}"
    )
    with pytest.raises(DataError, match=r"task.auxiliary.group: no label is known"):
        prepare.run(load_settings([*words[:7], f"+task.auxiliary.group={part}"]))
