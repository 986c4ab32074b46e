"""What every network and every target promises, each composed by the real configuration and built as `train` builds it.

Padding, company and order in a batch change no output; causal nets see no later step; sixteen histories can be learned
by heart; permuted labels cannot be learned, where the true ones can.
"""

from collections.abc import Callable
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ehrseq.audit.shuffled import permute_labels
from ehrseq.config.load import groups, load_settings
from ehrseq.config.model import Model
from ehrseq.config.schema import Settings
from ehrseq.config.targets import SeveralTarget, Target, columns_of, read_target
from ehrseq.data import SequenceBatch, represent
from ehrseq.data.batch import GridBatch, TimepointBatch
from ehrseq.errors import ConfigError
from ehrseq.metrics import evaluate_predictions, headline
from ehrseq.nn import SequenceModel
from ehrseq.store import Store
from ehrseq.tasks import encode
from ehrseq.workflows import prepare
from ehrseq.workflows.build import build_model, build_optimizer
from ehrseq.workflows.learn import learn
from ehrseq.workflows.scorers import NetworkScorer

DATA = ("source.n_subjects=1200", "split.held_out=0.4", "split.tuning=0.1", "tracking=none", "trainer=cpu")
# Small, and without chance.
SMALL = ("explain=none", "model.encoder.hidden_size=8", "model.head.dropout=0")
GRID = ("representation.bin_hours=6", "representation.max_steps=8", "model.embedding.dropout=0")
NETWORKS = [name for name in groups()["model"] if name != "gbm"]
POOLINGS = groups()["model/pooling"]
# What has dropout of its own.
STEADY = {"channelwise_lstm": ("model.encoder.input_dropout=0",), "conv_lstm": ("model.encoder.conv_dropout=0",)}


@cache
def settings_of(*words: str) -> Settings:
    return load_settings([*DATA, *SMALL, *words])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Synthetic stays with the labels of the source."""
    folder = tmp_path_factory.mktemp("promises")
    return prepare.run(load_settings([*DATA, f"paths.data={folder}"])).open()


def words_of(model: str) -> tuple[str, ...]:
    """A small, steady network on a short grid."""
    plain = () if model == "gru_d" else ("model.embedding.projection=8", "model.embedding.input_dropout=0")
    return (f"model={model}", *GRID, *plain, *STEADY.get(model, ()))


def network(settings: Settings, store: Store, target: Target | None = None) -> SequenceModel:
    torch.manual_seed(0)
    sizes = len(represent(store, settings.representation).names), len(store.statics)
    return build_model(settings.model, target or settings.task.target, settings.loss, *sizes)


def histories(store: Store, count: int) -> NDArray[np.int64]:
    """Some of `train`, of many lengths."""
    train = store.samples("train")
    chosen: NDArray[np.int64] = train[np.linspace(0, len(train) - 1, count).astype(int)]
    return chosen


# Company, padding, order


def padded(batch: SequenceBatch, steps: int) -> SequenceBatch:
    """The batch with more padding, in which there is rubbish wherever numbers are."""
    longer = {}
    for item in fields(batch):
        tensor: Tensor = getattr(batch, item.name)
        if item.name in batch.stepped:
            more = torch.zeros((len(tensor), steps, *tensor.shape[2:]), dtype=tensor.dtype)
            if tensor.dtype == torch.float32:
                more.uniform_(-50, 50)
            elif isinstance(batch, TimepointBatch):
                more += len(batch.codes)
            tensor = torch.cat([tensor, more], dim=1)
        longer[item.name] = tensor
    return type(batch)(**longer)


def reads_all(model: str) -> list[tuple[str, tuple[str, ...]]]:
    """The model on each representation that it reads."""
    cases = [(f"{model}-grid", words_of(model))]
    config = settings_of(*words_of(model)).model
    assert isinstance(config, Model)
    if not (config.encoder.grid_only or config.embedding.grid_only):
        for name in ("timepoints", "events"):
            words = (
                f"model={model}",
                f"representation={name}",
                "representation.max_steps=12",
                "model.embedding.size=8",
            )
            cases.append((f"{model}-{name}", words))
    return cases


BOTH_WAYS = ("model.encoder.bidirectional=true", "model.encoder.num_layers=2")
READERS = [case for model in NETWORKS for case in reads_all(model)] + [
    (f"both_ways-{pooling}", (*words_of("lstm"), *BOTH_WAYS, f"model/pooling={pooling}")) for pooling in POOLINGS
]


@pytest.mark.parametrize("words", [words for _, words in READERS], ids=[name for name, _ in READERS])
def test_company_order_and_padding_change_nothing(words: tuple[str, ...], store: Store) -> None:
    settings = settings_of(*words)
    model = network(settings, store).eval()
    representation = represent(store, settings.representation)
    samples = histories(store, 12)
    batch = representation.cut(samples)
    assert len(set(batch.lengths.tolist())) > 3
    with torch.no_grad():
        prediction = model(batch)
        output, attention = prediction.output, prediction.attention
        assert output.std() > 1e-4  # of different histories it does say different things
        order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
        close(model(representation.cut(samples[order.numpy()])).output, output[order])
        wide = model(padded(batch, 5))
        close(wide.output, output)
        if attention is not None:
            close(wide.attention, functional.pad(attention, (0, 5)))
        for row, sample in enumerate(samples):
            close(model(representation.cut(np.array([sample]))).output, output[row : row + 1])


def close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


# The future


@pytest.mark.parametrize("model", [*NETWORKS, "channelwise_lstm-one_way"])
@pytest.mark.parametrize("pooling", ["last", "mean", "max", "sum"])
def test_causal_nets_and_only_they_tell_each_step_without_the_later_ones(
    model: str, pooling: str, store: Store
) -> None:
    name, _, one_way = model.partition("-")
    more = ("model.encoder.bidirectional_channels=false",) if one_way else ()
    settings = settings_of(*words_of(name), f"model/pooling={pooling}", *more)
    assert isinstance(settings.model, Model)
    net = network(settings, store).eval()
    batch = represent(store, settings.representation, "steps").cut(histories(store, 12))
    assert isinstance(batch, GridBatch)
    ahead = bool(settings.model.encoder.looks_ahead())
    assert net.encoder.causal is not ahead
    if ahead:
        with pytest.raises(ConfigError, match="which sees later steps"):
            net.at_steps(batch)
    read: Callable[[GridBatch], Tensor] = (lambda it: net(it).hidden) if ahead else (lambda it: net.at_steps(it).output)
    with torch.no_grad():
        before = read(batch)
        seen = []
        for t in range(batch.steps - 1):
            rows = batch.lengths > t + 1
            change = (read(with_other_future(batch, t)) - before)[rows].abs()
            seen.append(change[:, : t + 1].max().item())
            assert change[:, t + 1 :].max() > 1e-4  # what is changed is read
    assert max(seen) > 1e-4 if ahead else max(seen) <= 1e-5


def with_other_future(batch: GridBatch, t: int) -> GridBatch:
    """The same up to step t, and everything else after it."""
    generator = torch.Generator().manual_seed(t)
    later = {}
    for name in ("values", "observed", "hours_since", "hours_before"):
        tensor = getattr(batch, name).clone()
        other = torch.rand(tensor[:, t + 1 :].shape, generator=generator)
        # Hours are counted from the first step on, so that later steps have more negative ones.
        tensor[:, t + 1 :] = (
            tensor[:, t : t + 1] - other.cumsum(1) * 9 if name == "hours_before" else (other > 0.5) + other
        )
        later[name] = tensor
    return replace(batch, **later)


# Every kind of target


KINDS: dict[str, dict[str, Any]] = {
    "binary": {"kind": "binary"},
    "multiclass": {"kind": "multiclass"},
    "multilabel": {"kind": "multilabel", "labels": ["is_high", "is_low"]},
    "regression": {"kind": "regression"},
    "ordinal": {"kind": "ordinal", "edges": [0.7, 1.0, 1.3]},
    "survival": {"kind": "survival", "edges": [12, 48], "causes": ["death", "discharge"]},
    "several": {
        "kind": "several",
        "parts": {
            "high": {"target": {"kind": "binary"}, "column": "is_high"},
            "rate": {"target": {"kind": "regression"}, "column": "rate", "weight": 2.0},
            "bucket": {"target": {"kind": "ordinal", "edges": [0.8, 1.2]}, "column": "sparse_rate"},
            "time": {"target": {"kind": "survival", "edges": [12, 48], "causes": ["death", "discharge"]}},
        },
    },
}


def outcomes_of(store: Store, kind: str) -> Store:
    """The store with outcomes that follow from the mean heart rate, encoded as those of label files are."""
    arrays, rng = store.arrays, np.random.default_rng(0)
    code = next(number for number, name in enumerate(store.codes) if "heart_rate" in name)
    rate = np.ones(len(arrays.sample_time))
    for sample, (begin, end) in enumerate(zip(arrays.sample_begin, arrays.sample_end, strict=True)):
        own = arrays.event[begin:end]
        own = own["value"][own["code"] == code]
        rate[sample] += 0.5 * own.mean() if len(own) else 0.0
    third = np.digitize(rate, np.quantile(rate, [1 / 3, 2 / 3]))
    hours = 20 * np.exp(2 - 2 * rate + 0.2 * rng.normal(size=len(rate)))
    censored = rng.random(len(rate)) < 0.3
    labels = pl.DataFrame(
        {
            "subject_id": store.subjects_of(np.arange(len(rate))),
            "prediction_time": pl.Series(arrays.sample_time).cast(pl.Datetime("us")),
            "boolean_value": third == 2,
            "categorical_value": np.array(["low", "middle", "high"])[third],
            "float_value": rate,
            "is_high": third == 2,
            "is_low": third == 0,
            "rate": rate,
            "sparse_rate": pl.Series(np.where(rng.random(len(rate)) < 0.3, np.nan, rate)).fill_nan(None),
            "time_to_event_hours": np.where(censored, hours * rng.random(len(rate)), hours) + 0.01,
            "event": np.where(censored, 0, 1 + (rng.random(len(rate)) < 0.3)),
        }
    )
    outcomes = encode(labels, read_target(KINDS[kind]), kind)
    return replace(
        store,
        arrays=replace(arrays, sample_label=outcomes.value),
        meta={**store.meta, "target": outcomes.target.plain()},
    )


def target_of(store: Store) -> Target:
    return read_target(store.meta["target"])


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_of_every_target_are_each_historys_own(kind: str, store: Store) -> None:
    labelled = outcomes_of(store, kind)
    settings = settings_of(*words_of("lstm"))
    model = network(settings, labelled, target_of(labelled)).eval()
    model.fit(labelled.arrays.sample_label[labelled.samples("train")])
    representation, samples = represent(labelled, settings.representation), histories(labelled, 12)
    with torch.no_grad():
        together = model.objective.predict(model(representation.cut(samples)).output)
        assert (together.std(0) > 1e-5).all()
        again = model.objective.predict(model(padded(representation.cut(samples[::-1].copy()), 3)).output)
        close(again.flip(0), together)
        for row, sample in enumerate(samples):
            alone = model.objective.predict(model(representation.cut(np.array([sample]))).output)
            close(alone, together[row : row + 1])


# Learning by heart


def learn_by_heart(settings: Settings, store: Store, target: Target) -> list[float]:
    """The losses of a network that sees the same sixteen histories again and again, until they are near zero."""
    train = store.samples("train")
    label = store.arrays.sample_label[:, 0]
    middle = np.nanmedian(label[train]) if target.kind != "binary" else 0.5
    high, low = train[label[train] > middle], train[label[train] <= middle]
    samples = np.sort(np.concatenate([high[:6], low[:10]]))
    model = network(settings, store, target).train()
    model.fit(store.arrays.sample_label[samples])
    optimizer = build_optimizer(settings.optim)(model.parameters())
    batch = represent(store, settings.representation).cut(samples)
    assert len(batch) == 16
    losses = [float("inf")]
    while losses[-1] > KNOWN and len(losses) < 600:
        optimizer.zero_grad()
        loss = model.objective.loss(model(batch).output, batch.targets)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses


# Without the summary network: what is learned is the recurrent net's own doing.
KNOWN = 0.05  # a loss that says that all is known; sixteen different histories leave nothing to chance
FAST = ("model.summary=null", "optim.optimizer.lr=0.02", "optim.optimizer.weight_decay=0")


@pytest.mark.parametrize("model", NETWORKS)
def test_every_network_learns_sixteen_histories_by_heart(model: str, store: Store) -> None:
    losses = learn_by_heart(settings_of(*words_of(model), *FAST), store, target_of(store))
    assert losses[1] > 0.4  # nothing is known at first
    assert losses[-1] <= KNOWN


@pytest.mark.parametrize("kind", KINDS)
def test_every_target_is_learned_by_heart(kind: str, store: Store) -> None:
    labelled = outcomes_of(store, kind)
    losses = learn_by_heart(settings_of(*words_of("lstm"), *FAST), labelled, target_of(labelled))
    assert losses[1] > 0.4
    assert losses[-1] <= KNOWN


# Shuffled labels


TRAIN = (
    "model.summary=null",
    "optim.optimizer.lr=0.01",
    "optim.weight_averaging=null",
    "model.embedding.dropout=0",
    "model.hidden_dropout=0",
    "trainer.max_epochs=5",
    "trainer.progress=false",
    "loader.batch_size=32",
)


def figures(settings: Settings, store: Store, folder: Path) -> list[tuple[float, float, float]]:
    """How well a trained network does on `held_out`: the headline figure of each part, and what chance makes of it.

    Chance is what the same predictions get for outcomes that are dealt anew: mean and standard deviation of 100 deals.
    """
    model, _ = learn(settings, store, folder, lambda *_: None)
    samples = store.samples("held_out")
    prediction = NetworkScorer(model, settings.representation, "last").score(store, samples, settings)
    outcome, target = store.arrays.sample_label[samples], target_of(store)
    names = [headline(target)]
    if isinstance(target, SeveralTarget):
        names = [f"{part.name}_{headline(part.target)}" for part in columns_of(target.parts)]

    def values(outcome: NDArray[np.float32]) -> list[float]:
        found = evaluate_predictions(target, outcome, prediction, samples, replicates=0)
        return [float(found[name].value or 0.0) for name in names]

    rng = np.random.default_rng(0)
    chance = np.array([values(outcome[rng.permutation(len(outcome))]) for _ in range(100)])
    return list(zip(values(outcome), chance.mean(axis=0).tolist(), chance.std(axis=0).tolist(), strict=True))


SIGMAS = 4  # one of thirty thousand, were it not that the seeds are fixed


def check_learning(settings: Settings, store: Store, folder: Path) -> None:
    for value, mean, spread in figures(settings, store, folder / "true"):
        assert value > mean + SIGMAS * spread
    shuffled = replace(store, arrays=permute_labels(store.arrays, seed=1))
    for value, mean, spread in figures(settings, shuffled, folder / "shuffled"):
        assert abs(value - mean) <= SIGMAS * spread


@pytest.mark.parametrize("model", NETWORKS)
def test_every_network_learns_the_labels_but_not_permuted_ones(model: str, store: Store, tmp_path: Path) -> None:
    check_learning(settings_of(*words_of(model), *TRAIN), outcomes_of(store, "binary"), tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_every_target_is_learned_but_not_when_permuted(kind: str, store: Store, tmp_path: Path) -> None:
    check_learning(settings_of(*words_of("lstm"), *TRAIN), outcomes_of(store, kind), tmp_path)


def test_labels_that_leak_are_found_out(store: Store, tmp_path: Path) -> None:
    shuffled = replace(store, arrays=permute_labels(store.arrays, seed=1))
    static = shuffled.arrays.static.copy()
    static[shuffled.arrays.sample_subject, 0] = shuffled.arrays.sample_label[:, 0]
    leaking = replace(shuffled, arrays=replace(shuffled.arrays, static=static))
    ((value, mean, spread),) = figures(settings_of(*words_of("lstm"), *TRAIN), leaking, tmp_path)
    assert value > mean + SIGMAS * spread
