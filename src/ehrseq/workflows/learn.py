"""The part of a training that the real run and its controls share: settings and a store in, best weights out."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ehrseq.config.schema import Settings
from ehrseq.config.targets import read_target
from ehrseq.store import Store
from ehrseq.workflows.build import build_model, build_optimizer

if TYPE_CHECKING:
    from ehrseq.nn import SequenceModel
    from ehrseq.training.callbacks import MetricSink
    from ehrseq.training.fit import Fitted


def learn(
    settings: Settings,
    store: Store,
    folder: Path,
    sink: "MetricSink",
    report: Callable[[str], None] | None = None,
) -> tuple["SequenceModel", "Fitted"]:
    """Train one network on `train`, watched on `tuning`.

    Args:
        settings: What and how.
        store: The data; its labels are what is learned.
        folder: Where the checkpoints go.
        sink: Receives each epoch's figures.
        report: Prints a line an epoch where there are no bars.

    Returns:
        The network with its best weights, and the facts of the training.
    """
    import pytorch_lightning as lightning

    from ehrseq.data import HistoryDataset, represent
    from ehrseq.metrics.streaming import WatchedMetrics
    from ehrseq.training.fit import fit
    from ehrseq.training.inference import choose_device
    from ehrseq.training.module import SequenceModule

    lightning.seed_everything(settings.seed, workers=True, verbose=False)
    representation = represent(store, settings.representation, settings.outputs)
    cache = settings.loader.cache_gib / 2
    train, tuning = (HistoryDataset(representation, store.samples(split), cache) for split in ("train", "tuning"))
    target = read_target(store.meta["target"])
    sizes = len(representation.names), len(store.statics)
    model: SequenceModel = build_model(settings.model, target, settings.loss, *sizes)
    model.objective.fit(train.outcomes)
    module = SequenceModule(
        model,
        build_optimizer(settings.optim),
        settings.optim.schedule,
        settings.optim.warmup_epochs,
        WatchedMetrics(target, "tuning/"),
        settings.loss.target_replication,
    )
    pin = choose_device(settings.trainer.accelerator).type == "cuda"
    fitted = fit(
        module,
        train.shuffled(settings.loader, settings.seed, pin),
        tuning.ordered(settings.loader, pin),
        settings.trainer,
        folder,
        sink,
        settings.optim.weight_averaging,
        report,
    )
    model.load_state_dict(fitted.weights)
    return model.cpu().eval(), fitted
