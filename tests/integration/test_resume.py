"""A training that was stopped anywhere goes on to the very same end."""

import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from ehrseq.config.load import load_settings
from ehrseq.config.schema import Settings
from ehrseq.data.batch import SequenceBatch
from ehrseq.errors import ConfigError, InterruptedBySignalError, RunError
from ehrseq.store import Store
from ehrseq.training.fit import Fitted
from ehrseq.training.module import SequenceModule
from ehrseq.workflows import prepare
from ehrseq.workflows.checkpoints import checkpoints, is_begun, resumed
from ehrseq.workflows.learn import learn

SMALL = [
    *("source.n_subjects=150", "explain=none", "trainer.accelerator=cpu", "trainer.progress=false"),
    *("model.encoder.hidden_size=4", "model.summary=null", "trainer.max_epochs=3", "loader.batch_size=32"),
]
# Words, and during which batches to stop: first, last and others of an epoch.
VARIANTS: dict[str, tuple[list[str], list[int]]] = {
    "default": ([], [0, 2, 3, 7]),
    "plateau, no average, another monitor": (
        ["optim.schedule=plateau", "optim.weight_averaging=null", "trainer.monitor=tuning/auroc"],
        [2, 4],
    ),
    "accumulated, stops early": (["trainer.accumulate=2", "trainer.patience=1", "optim.optimizer.lr=0.3"], [0, 5]),
    "one batch an epoch": (["loader.batch_size=512"], [0, 1]),
    "two workers": (["loader.num_workers=2", "loader.cache_gib=0", "trainer.max_epochs=2"], [1, 3]),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("resume") / "data"


def setup(data: Path, words: list[str]) -> tuple[Settings, Store]:
    settings = load_settings([*SMALL, f"paths.data={data}", *words])
    return settings, prepare.run(settings).open()


class Stop:
    """Sends a signal to this process while batch number `at` is learned, counted over all attempts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[list[int]] = []
        self.at = -1
        inner = SequenceModule.on_train_batch_start

        # Not at `training_step`, which the probe of the largest batch takes too.
        def start(module: SequenceModule, batch: SequenceBatch, index: int) -> None:
            inner(module, batch, index)
            self.seen.append(batch.samples.tolist())
            if len(self.seen) - 1 == self.at:
                os.kill(os.getpid(), signal.SIGTERM)

        monkeypatch.setattr(SequenceModule, "on_train_batch_start", start)


def train(settings: Settings, store: Store, folder: Path) -> tuple[Fitted, list[tuple[int, dict[str, float]]]]:
    told: list[tuple[int, dict[str, float]]] = []
    _, fitted = learn(settings, store, folder, lambda metrics, epoch: told.append((epoch, dict(metrics))))
    for _, metrics in told:
        metrics.pop("epoch_seconds", None)
    return fitted, told


@pytest.mark.parametrize("name", VARIANTS)
def test_stopped_anywhere_it_ends_with_the_same_bytes(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    words, places = VARIANTS[name]
    settings, store = setup(data, words)
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    stop = Stop(monkeypatch)
    undisturbed, figures = train(settings, store, tmp_path / "undisturbed")
    batches = list(stop.seen)
    assert len(batches) >= 3
    for at in places:
        stop.seen.clear()
        stop.at = at
        folder = tmp_path / f"stopped_{at}"
        with pytest.raises(InterruptedBySignalError, match="goes on from there") as caught:
            train(settings, store, folder)
        assert caught.value.exit_code == 143
        assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
        stop.at = -1
        fitted, told = train(settings, store, folder)
        # Every batch once, in the same order: none again, none left out.
        assert stop.seen == batches, at
        assert told == figures, at
        assert (fitted.epoch, fitted.epochs, fitted.score) == (
            undisturbed.epoch,
            undisturbed.epochs,
            undisturbed.score,
        )
        assert fitted.weights.keys() == undisturbed.weights.keys()
        for key, value in undisturbed.weights.items():
            assert torch.equal(fitted.weights[key], value), (at, key)
        # What is finished is not trained again.
        stop.seen.clear()
        again, told = train(settings, store, folder)
        assert not stop.seen
        assert told == figures
        assert again.score == undisturbed.score


def stopped(settings: Settings, folder: Path) -> None:
    with suppress(KeyboardInterrupt), checkpoints(settings, folder, {"seed": 1}):
        raise KeyboardInterrupt


def test_checkpoints_of_another_training_are_not_gone_on_with(data: Path, tmp_path: Path) -> None:
    settings, _ = setup(data, [])
    folder = tmp_path / "run" / "checkpoints"
    stopped(settings, folder)
    (folder / "last.ckpt").write_bytes(b"something")
    assert is_begun(folder, {"seed": 1})
    assert not is_begun(folder, {"seed": 2})
    with checkpoints(settings, folder, {"seed": 2}) as kept:
        assert not (kept / "last.ckpt").exists()
    assert not folder.exists()


def test_resume_names_what_may_not_differ(data: Path, tmp_path: Path) -> None:
    settings, _ = setup(data, [])
    run = tmp_path / "run"
    stopped(settings, run / "checkpoints")
    named = settings.model_copy(update={"resume": str(run)})
    free = ["loader.num_workers=1", "trainer.checkpoint_minutes=7", "tracking.experiment=other"]
    after = resumed(named, [f"resume={run}", *free])
    assert (after.loader.num_workers, after.trainer.checkpoint_minutes) == (1, 7)
    assert after.model == settings.model
    with pytest.raises(ConfigError, match=r"optim\.optimizer\.lr was 0\.003 and would be 0\.5; .*another training"):
        resumed(named, [f"resume={run}", "optim.optimizer.lr=0.5"])
    with pytest.raises(RunError, match="no checkpoints there"):
        resumed(named.model_copy(update={"resume": str(tmp_path)}), [f"resume={tmp_path}"])
