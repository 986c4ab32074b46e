"""Trying learning rates or batch sizes on the data of an experiment; nothing is kept but what is told."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ehrseq.config.model import Trees
from ehrseq.config.schema import Settings
from ehrseq.errors import ConfigError
from ehrseq.plotting import BLUE, GREY, new_figure
from ehrseq.workflows import prepare
from ehrseq.workflows.learn import set_up

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

    from ehrseq.data import SequenceBatch
    from ehrseq.training.finders import RateTrial

LOW, HIGH, STEPS = 1e-6, 1.0, 120
SIZES = [8, 16, 32, 64, 128, 256, 512, 1024, 2048]


def run(settings: Settings, what: Literal["learning-rate", "batch-size"], picture: Path | None = None) -> list[str]:
    """Try, and say what to take.

    Args:
        settings: The experiment.
        what: To find.
        picture: Where the curve of the learning rate is drawn, if anywhere.

    Returns:
        Lines for the reader; the last is the override to use.

    Raises:
        ConfigError: If the model does not learn in steps.
        TrainingError: If nothing works.
    """
    if isinstance(settings.model, Trees):
        raise ConfigError(f"model={settings.model.name} has no learning rate or batches to find")
    from ehrseq.data import HistoryDataset
    from ehrseq.training import finders
    from ehrseq.training.inference import choose_device

    training = set_up(settings, prepare.run(settings).open())
    device = choose_device(settings.trainer.accelerator)
    if what == "learning-rate":
        rates = finders.try_rates(training.module, training.train, device, LOW, HIGH, STEPS)
        rate = finders.suggest_rate(rates)
        if picture is not None:
            _draw(rates, rate, picture)
        shown = [f"rate {trial.rate:9.2e}  loss {trial.loss:.4f}" for trial in rates[:: max(len(rates) // 12, 1)]]
        return [*shown, f"optim.optimizer.lr={rate:.1e}"]
    dataset = training.train.dataset
    assert isinstance(dataset, HistoryDataset)
    sizes = [size for size in SIZES if size <= max(len(dataset), SIZES[0])]

    def loader(size: int) -> "DataLoader[SequenceBatch]":
        return dataset.shuffled(settings.loader.model_copy(update={"batch_size": size}))

    trials = finders.try_sizes(training.module, loader, device, sizes)
    shown = []
    for trial in trials:
        memory = "" if trial.memory is None else f"  {trial.memory:.2f} GiB"
        fits = "does not fit" if trial.throughput is None else f"{trial.throughput:,.0f} histories a second{memory}"
        shown.append(f"batch {trial.size:>5}  {fits}")
    return [*shown, f"loader.batch_size={finders.suggest_size(trials)}"]


def _draw(trials: "list[RateTrial]", rate: float, path: Path) -> None:
    with new_figure(path) as figure:
        axes = figure.add_subplot()
        axes.plot([trial.rate for trial in trials], [trial.loss for trial in trials], color=BLUE)
        axes.axvline(rate, color=GREY, linestyle="--", label=f"suggested: {rate:.1e}")
        axes.set(xscale="log", xlabel="Learning rate", ylabel="Training loss, smoothed")
        axes.legend()
