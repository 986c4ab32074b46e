"""The part of a training that the real run and its controls share: settings and a store in, best weights out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ehrseq.baselines import find_thresholds, import_lightgbm
from ehrseq.config.model import Blend, Trees
from ehrseq.config.schema import Settings
from ehrseq.config.targets import BinaryTarget, ForecastTarget, Target, read_parts, read_target
from ehrseq.errors import DataError
from ehrseq.store import Store
from ehrseq.workflows.build import build_booster, build_model, build_optimizer
from ehrseq.workflows.engine import keep_freed_memory
from ehrseq.workflows.member_folds import MemberFolds
from ehrseq.workflows.scorers import BlendScorer, EnsembleScorer, Scorer, TreesScorer, network_scorer
from ehrseq.workflows.teacher import teach

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

    from ehrseq.data import HistoryDataset, SequenceBatch
    from ehrseq.nn import SequenceModel, SummaryNetwork
    from ehrseq.training.callbacks import MetricSink
    from ehrseq.training.fit import Fitted
    from ehrseq.training.module import SequenceModule
    from ehrseq.workflows.pretrained import Start

WEIGHTS = "model.safetensors"
IMPORTANCE = "importance.csv"
SEEDS_APART = 1000  # between members, so that neighbouring seeds share none
_ROWS = 60_000  # by which thresholds are found, of more
_REPORTED = 10  # trees between two entries of the history


@dataclass(frozen=True)
class Learned:
    """A network or trees, just trained.

    Attributes:
        scorer: With the best weights.
        write: Writes the weights into a folder.
        epoch: The best epoch, or how many trees are kept.
        epochs: How many epochs, or trees, were trained.
        score: The monitored figure in the best one.
    """

    scorer: Scorer
    write: Callable[[Path], None]
    epoch: int
    epochs: int
    score: float


def learn_members(
    settings: Settings,
    store: Store,
    folder: Path,
    sink: "MetricSink",
    report: Callable[[str], None] | None = None,
    start: "Start | None" = None,
) -> Learned:
    """Train `settings.members` models that differ by their seeds, and with `members_by=folds` by what they learn from.

    Of those that differ by their seeds alone, the first is the one that would be trained alone.

    Args:
        settings: What and how.
        store: The data.
        folder: Where the checkpoints go.
        sink: Receives the figures of the first member.
        report: Prints lines on the way.
        start: What to begin with; new weights by default.
    """
    if settings.members == 1:
        return learn_model(settings, store, folder, sink, report, start)
    folds, members = member_folds(settings), []
    for number in range(settings.members):
        own = settings.model_copy(update={"seed": settings.seed + number * SEEDS_APART})
        if report:
            report(f"train: member {number + 1} of {settings.members}")
        place = member_folder(folder, number)
        seen = folds.store_of(store, number) if folds else store
        members.append(learn_model(own, seen, place, sink if number == 0 else lambda *_: None, report, start))

    def write(target: Path) -> None:
        for number, member in enumerate(members):
            place = member_folder(target, number)
            place.mkdir(exist_ok=True)
            member.write(place)

    scorer = EnsembleScorer(tuple(member.scorer for member in members), folds)
    score = sum(member.score for member in members) / len(members)
    return Learned(scorer, write, members[0].epoch, sum(member.epochs for member in members), score)


def member_folds(settings: Settings) -> MemberFolds | None:
    """How subjects are dealt out among the members; None where all of them learn from the same."""
    return MemberFolds(settings.members, settings.split.seed) if settings.members_by == "folds" else None


def member_folder(folder: Path, number: int) -> Path:
    """Where a member's weights are, in the folder of its run; number 0 is the first."""
    return folder if number == 0 else folder / f"member_{number + 1}"


def learn_model(
    settings: Settings,
    store: Store,
    folder: Path,
    sink: "MetricSink",
    report: Callable[[str], None] | None = None,
    start: "Start | None" = None,
) -> Learned:
    """Train what the settings name: a network (`learn`), trees (`learn_trees`), or both, to be averaged."""
    if isinstance(settings.model, Trees):
        return learn_trees(settings, settings.model, store, sink, report)
    from safetensors.torch import save_file

    from ehrseq.training.ranks import rank

    if settings.blend is not None:
        import_lightgbm()  # that it is missing is told before the network has learned
    model, fitted = learn(settings, store, folder, sink, report, start)

    def write(target: Path) -> None:
        save_file(model.state_dict(), target / WEIGHTS)

    network = Learned(network_scorer(model, settings), write, fitted.epoch, fitted.epochs, fitted.score)
    # The first of several processes alone writes, and so needs trees.
    if settings.blend is None or rank() > 0:
        return network
    return _blend(network, settings, settings.blend, store, report)


def _blend(
    network: Learned, settings: Settings, config: Blend, store: Store, report: Callable[[str], None] | None
) -> Learned:
    """The network with trees of the same histories beside it; its epochs and score stay the network's."""
    trees = learn_trees(settings, config, store, lambda *_: None, report)

    def write(target: Path) -> None:
        network.write(target)
        trees.write(target)

    return replace(network, scorer=BlendScorer(network.scorer, trees.scorer, config.weight), write=write)


def learn_trees(
    settings: Settings,
    config: Trees | Blend,
    store: Store,
    sink: "MetricSink",
    report: Callable[[str], None] | None = None,
) -> Learned:
    """Grow trees on `train`, as many as are best on `tuning`.

    Args:
        settings: `seed`, `trainer.monitor` and `loss.class_weight` are used.
        config: `settings.model` or `settings.blend`.
        store: The data; its labels are what is learned.
        sink: Receives the figures, every ten trees.
        report: Prints a line now and then.
    """
    import polars as pl

    from ehrseq.data.summary import summarise

    booster = build_booster(config, read_target(store.meta["target"]))
    samples = {split: store.samples(split) for split in ("train", "tuning")}
    matrices = {split: summarise(store, part, config.summary) for split, part in samples.items()}
    outcomes = {split: store.arrays.sample_label[part] for split, part in samples.items()}
    names = matrices["train"][1]
    if report:
        report(f"train: {len(samples['train']):,} histories summarised in {len(names):,} features")

    def watch(figures: Mapping[str, float], trees: int) -> None:
        if trees == 1 or trees % _REPORTED == 0:
            sink(figures, trees)
        if report and trees % (10 * _REPORTED) == 0:
            report(f"tree {trees:>4}  " + "  ".join(f"{name} {value:.4f}" for name, value in sorted(figures.items())))

    booster.fit(
        (matrices["train"][0], outcomes["train"]),
        (matrices["tuning"][0], outcomes["tuning"]),
        monitor=settings.trainer.monitor,
        seed=settings.seed,
        class_weight=settings.loss.class_weight,
        report=watch,
    )

    def write(target: Path) -> None:
        booster.save(target)
        gain, splits = booster.importance()
        table = pl.DataFrame({"feature": names, "column": range(len(names)), "gain": gain, "splits": splits})
        table.sort("gain", "column", descending=[True, False]).write_csv(target / IMPORTANCE)

    return Learned(TreesScorer(booster, config.summary), write, booster.best, booster.trained, booster.score)


def learn(
    settings: Settings,
    store: Store,
    folder: Path,
    sink: "MetricSink",
    report: Callable[[str], None] | None = None,
    start: "Start | None" = None,
    recipe: "Recipe | None" = None,
) -> tuple["SequenceModel", "Fitted"]:
    """Train one network on `train`, watched on `tuning`.

    Args:
        settings: What and how.
        store: The data; its labels are what is learned.
        folder: Where the checkpoints go.
        sink: Receives each epoch's figures.
        report: Prints a line an epoch where there are no bars.
        start: What to begin with; new weights by default.
        recipe: What else is trained than the network that the settings describe, or by another loss.

    Returns:
        The network with its best weights, and the facts of the training.
    """
    from ehrseq.training.fit import fit

    training = set_up(settings, store, report, start, recipe)
    options = settings.trainer, folder, sink, settings.optim.weight_averaging, report
    fitted = fit(training.module, training.train, training.tuning, *options)
    model = training.module.model
    model.load_state_dict(fitted.weights)
    model.finish()
    return model.cpu().eval(), fitted


@dataclass(frozen=True)
class Training:
    """A network with what it is to be trained on.

    Attributes:
        module: The network, its loss and its optimiser.
        train: Shuffled batches.
        tuning: Every tuning sample once.
    """

    module: "SequenceModule"
    train: "DataLoader[SequenceBatch]"
    tuning: "DataLoader[SequenceBatch]"


@dataclass(frozen=True)
class Recipe:
    """How a network departs from what the settings describe.

    Attributes:
        alter: What becomes of the new network before it learns.
        module: Makes what trains it, in place of `SequenceModule`; None: that.
    """

    alter: Callable[["SequenceModel"], "SequenceModel"] = lambda model: model
    module: Callable[..., "SequenceModule"] | None = None


def set_up(
    settings: Settings,
    store: Store,
    report: Callable[[str], None] | None = None,
    start: "Start | None" = None,
    recipe: Recipe | None = None,
) -> Training:
    """Build a network and its batches; the arguments of `learn`."""
    import pytorch_lightning as lightning

    from ehrseq.data import HistoryDataset, represent
    from ehrseq.metrics.streaming import WatchedMetrics
    from ehrseq.training.attention_aid import AttentionAid
    from ehrseq.training.inference import choose_device
    from ehrseq.training.module import SequenceModule
    from ehrseq.training.ranks import join_group, rank, ranks, wait_for_others

    keep_freed_memory()
    lightning.seed_everything(settings.seed, workers=True, verbose=False)
    target = read_target(store.meta["target"])
    teaching = None
    if settings.teacher is not None:
        store, teaching = teach(settings.teacher, store, settings.seed, Path(settings.paths.data), report)
    auxiliary = read_parts(store.meta["auxiliary"])
    horizon = target.horizon if isinstance(target, ForecastTarget) else None
    representation = represent(store, settings.representation, settings.outputs, horizon)
    cache = settings.loader.cache_gib / 2
    learned = _learned_from(store, "train", target)
    outcomes, others = store.arrays.sample_label[learned], store.arrays.sample_auxiliary[learned]
    if teaching is not None and teaching.weight == 1 and isinstance(target, BinaryTarget) and not auxiliary:
        # Where nothing is told, nothing would be learned.
        learned = learned[~np.isnan(others[:, -1])]
    train = HistoryDataset(representation, learned, cache)
    tuning = HistoryDataset(representation, _learned_from(store, "tuning", target), cache)
    sizes = len(representation.names), len(store.statics)
    model: SequenceModel = build_model(settings.model, target, settings.loss, *sizes, auxiliary)
    if start is not None:
        given = start.hand_on(model, representation.names, store.statics)
        if report:
            report(f"train: {given} tensors of embedding and encoder from {start.reference}")
    recipe = recipe or Recipe()
    model.fit(outcomes, train.chunks(), settings.outputs == "steps", others)
    if model.summary is not None and model.summary.thresholds:
        _place_thresholds(model.summary, train, settings, teaching is not None)
    model = recipe.alter(model)
    module = (recipe.module or SequenceModule)(
        model,
        build_optimizer(settings.optim),
        settings.optim.schedule,
        settings.optim.warmup_epochs,
        WatchedMetrics(target, "tuning/"),
        settings.loss.target_replication,
        settings.loss.outputs_share,
        settings.seed,
        AttentionAid(
            settings.loss.attention_entropy, settings.loss.attention_gradient, settings.loss.attention_consistency
        ),
        teaching,
    )
    join_group(settings.trainer.accelerator)
    # Until the first has made the folder for the checkpoints ready.
    wait_for_others()
    pin = choose_device(settings.trainer.accelerator).type == "cuda"
    own = settings.loader, pin, rank(), ranks()
    return Training(module, train.shuffled(*own, settings.seed, settings.trainer.accumulate), tuning.ordered(*own))


def _place_thresholds(summary: "SummaryNetwork", train: "HistoryDataset", settings: Settings, taught: bool) -> None:
    """Give the summary network the thresholds that say most about what it will learn.

    Args:
        summary: Standardised by `train`.
        train: What is learned from.
        settings: Of the run.
        taught: Whether that is what a teacher tells, where it does; else the first outcome.
    """
    import torch

    from ehrseq.nn import read_batch
    from ehrseq.training.inference import here, told_to

    rng = np.random.default_rng(settings.seed)
    share = _ROWS / max(len(train.outcomes), 1)
    rows, learned = [], []
    for batch in train.chunks():
        numbers = here(batch, summary.standardised(read_batch(batch, summary.reads), settings.outputs == "steps"))
        outcome = told_to(batch)[:, 0] if taught else here(batch, batch.targets)[:, 0]
        taken = ~outcome.isnan() & torch.from_numpy(rng.random(len(outcome)) < share)
        rows.append(numbers[taken].numpy())
        learned.append(outcome[taken].numpy())
    found = find_thresholds(np.concatenate(rows), np.concatenate(learned), summary.thresholds, settings.seed)
    summary.place(*(torch.from_numpy(part) for part in found))


def _learned_from(store: Store, split: str, target: Target) -> NDArray[np.int64]:
    """The samples of a split that are learned from, or watched: all, or those that are known to be normal.

    Raises:
        DataError: If there are none.
    """
    samples = store.samples(split)
    if isinstance(target, ForecastTarget) and target.normal_only:
        samples = samples[store.arrays.sample_label[samples, 0] != 1]
        if not len(samples):
            raise DataError(f"task.target.normal_only=true: every label of {split} is true; nothing normal to learn")
    return samples
