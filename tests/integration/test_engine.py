"""What a training offers beside itself: a probe, a profile, finders."""

import copy
from pathlib import Path

import pytest
import torch
from torch.optim import SGD

from ehrseq.config.load import load_settings
from ehrseq.config.schema import Settings
from ehrseq.data import HistoryDataset
from ehrseq.data.sampler import ShuffledBatches
from ehrseq.errors import ConfigError, TrainingError, is_out_of_memory
from ehrseq.store import Store
from ehrseq.training.finders import RateTrial, SizeTrial, suggest_rate, suggest_size
from ehrseq.training.profile import PHASES
from ehrseq.workflows import find, prepare
from ehrseq.workflows.learn import learn, set_up

SMALL = [
    *("source.n_subjects=150", "explain=none", "trainer.accelerator=cpu", "trainer.progress=false"),
    *("model.encoder.hidden_size=4", "model.summary=null", "trainer.max_epochs=2", "loader.batch_size=32"),
]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, Store]:
    settings = load_settings([*SMALL, f"paths.data={tmp_path_factory.mktemp('engine')}"])
    return settings, prepare.run(settings).open()


def with_words(settings: Settings, *words: str) -> Settings:
    return load_settings([*SMALL, f"paths.data={settings.paths.data}", *words])


def test_the_probe_is_the_largest_batch_and_leaves_no_trace(prepared: tuple[Settings, Store]) -> None:
    training = set_up(*prepared)
    module, loader = training.module, training.train
    module.on_train_batch_start(next(iter(loader)), 0)
    module.training_step(next(iter(loader)), 0)
    before = copy.deepcopy(module.state_dict()), {name: value.clone() for name, value in module._sums.items()}
    assert isinstance(loader.sampler, ShuffledBatches)
    assert isinstance(loader.dataset, HistoryDataset)
    positions = loader.sampler.largest()
    lengths = loader.sampler.lengths
    sizes = [len(batch) * lengths[batch].max() for batch in loader.sampler]
    assert len(positions) * lengths[positions].max() == max(sizes)
    module.try_step(loader.dataset[positions])
    assert all(weight.grad is None for weight in module.parameters())
    assert all(torch.equal(value, module.state_dict()[name]) for name, value in before[0].items())
    assert all(torch.equal(value, module._sums[name]) for name, value in before[1].items())


def test_too_little_memory_is_told_as_such(
    prepared: tuple[Settings, Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 50)
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    settings, store = prepared
    monkeypatch.setattr("ehrseq.training.module.look", lambda *_: torch.empty(1 << 50))
    with pytest.raises(
        TrainingError,
        match=r"the memory of cpu does not hold a batch of \d+ histories of 72 steps.*trainer\.accumulate=2",
    ):
        learn(settings, store, tmp_path, lambda *_: None)


def test_the_profile_shares_out_the_whole_epoch(prepared: tuple[Settings, Store], tmp_path: Path) -> None:
    settings, store = prepared
    lines: list[str] = []
    told: list[float] = []
    settings = with_words(settings, "trainer.profile=true")
    learn(settings, store, tmp_path, lambda metrics, _: told.append(metrics["epoch_seconds"]), lines.append)
    start = next(number for number, line in enumerate(lines) if line.startswith("profile:"))
    table = [line.split() for line in lines[start + 1 :]]
    assert [row[0] for row in table] == list(PHASES)
    shares = {row[0]: float(row[-1].rstrip("%")) for row in table}
    assert sum(shares.values()) == pytest.approx(100, abs=0.5)
    assert min(shares[name] for name in ("data", "forward", "backward", "optimiser", "tuning")) > 0
    seconds = sum(float(row[1]) for row in table) / 1000 * int(lines[start].split()[-2])
    assert seconds == pytest.approx(told[1], rel=0.25)


def test_rates_are_suggested_below_the_best() -> None:
    losses = [0.1] * 10 + [0.7, 0.6, 0.4, 0.5, 0.9]  # the first ten are hardly smoothed, and are not believed
    trials = [RateTrial(10.0 ** (step - 14), loss) for step, loss in enumerate(losses)]
    assert suggest_rate(trials) == pytest.approx(1e-3)
    with pytest.raises(TrainingError, match="diverged at the lowest"):
        suggest_rate(trials[:9])
    sizes = [SizeTrial(8, 10.0, None), SizeTrial(16, 95.0, None), SizeTrial(32, 100.0, None), SizeTrial(64, None, None)]
    assert suggest_size(sizes) == 16
    with pytest.raises(TrainingError, match="does not hold a batch of 8"):
        suggest_size([SizeTrial(8, None, None)])


def test_finders_try_on_real_steps(prepared: tuple[Settings, Store], tmp_path: Path) -> None:
    settings, _ = prepared
    lines = find.run(settings, "learning-rate", tmp_path / "rates.png")
    assert lines[-1].startswith("optim.optimizer.lr=")
    assert 1e-7 < float(lines[-1].partition("=")[2]) < 1
    assert (tmp_path / "rates.png").stat().st_size > 10_000
    lines = find.run(settings, "batch-size")
    assert "histories a second" in lines[0]
    assert load_settings([*SMALL, lines[-1]]).loader.batch_size in find.SIZES
    with pytest.raises(ConfigError, match="has no learning rate"):
        find.run(load_settings(["model=gbm", "explain=none"]), "batch-size")


def test_accumulated_parts_make_the_same_step(prepared: tuple[Settings, Store]) -> None:
    """The mean gradient of the parts is that of the batch, for batches of equal parts."""
    settings, store = prepared
    words = ("model.embedding.dropout=0", "model.embedding.input_dropout=0", "model.head.dropout=0")
    settings = with_words(
        settings, *words, "model.hidden_dropout=0", "model.next_values=null", "loader.max_padding=null"
    )
    training = set_up(settings, store)
    module, loader = training.module, training.train
    assert isinstance(loader.dataset, HistoryDataset)
    batch = next(iter(loader.sampler))
    optimizer = SGD(module.parameters(), 0.1)

    def gradient(parts: int) -> torch.Tensor:
        optimizer.zero_grad()
        for part in batch.reshape(parts, -1):
            (module.training_step(loader.dataset[part], 0) / parts).backward()  # type: ignore[no-untyped-call]
        return torch.cat([weight.grad.flatten() for weight in module.parameters() if weight.grad is not None])

    torch.testing.assert_close(gradient(1), gradient(4), rtol=1e-4, atol=1e-6)
