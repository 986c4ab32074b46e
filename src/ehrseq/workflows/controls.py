"""Networks that are trained for the verdict on explanations, and kept beside the run."""

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ehrseq.audit.shuffled import permute_labels
from ehrseq.config.schema import Settings
from ehrseq.files import atomic_folder, is_current, write_manifest
from ehrseq.store import Store
from ehrseq.workflows.checkpoints import CHECKPOINTS, checkpoints
from ehrseq.workflows.console import timed
from ehrseq.workflows.learn import SEEDS_APART, WEIGHTS, Recipe, learn
from ehrseq.workflows.prepare import Prepared
from ehrseq.workflows.pretrained import find_start
from ehrseq.workflows.runs import TrainedRun, train_key

if TYPE_CHECKING:
    from ehrseq.explain.controls import Controls
    from ehrseq.nn import SequenceModel
    from ehrseq.workflows.pretrained import Start

CONTROLS = "controls"


def train_controls(settings: Settings, prepared: Prepared, trained: TrainedRun) -> "Controls":
    """The networks that `explain.controls` asks for; those that are there already are not trained again.

    Each is trained as the run itself was, in `controls/<name>/`. The tests of attention are for networks that learn
    it; of others they are left out. The members of an ensemble are other seeds that need no training.

    Raises:
        TrainingError: If a loss is no longer finite.
        InterruptedBySignalError: After a signal; the same command goes on.
    """
    from ehrseq.explain.controls import EVEN, LEARNED, RIVAL, Controls
    from ehrseq.explain.sanity import learns_attention, with_even_attention, with_new_attention
    from ehrseq.nn import without_context
    from ehrseq.training.rival import RivalModule

    asked, members = settings.explain.controls, trained.settings.members
    seeds = [trained.model(number) for number in range(1, members)]
    if not asked.wanted and not seeds:
        return Controls()
    model, store = trained.model(), prepared.open()
    work = _Training.begin(settings, prepared, trained)
    for number in range(members, asked.seeds + 1):
        seed = trained.settings.seed + number * SEEDS_APART
        seeds.append(work.train(f"seed_{seed}", f"another seed ({seed})", store, seed=seed))
    shuffled = None
    if asked.shuffled_labels:
        permuted = replace(store, arrays=permute_labels(store.arrays, trained.settings.seed))
        shuffled = work.train("shuffled_labels", "permuted labels", permuted)
    found = Controls(seeds=seeds, shuffled_labels=shuffled)
    if not learns_attention(model):
        return found
    spread = _spread(settings, trained, store)
    even = None
    if asked.even_attention:
        even = work.train("even_attention", "even weights of its steps", store, Recipe(with_even_attention))
    rivals = {}
    for trade_off in asked.rivals:
        recipe = Recipe(
            lambda _: with_new_attention(model, trained.settings.seed).train(),
            partial(RivalModule, base=model, spread=spread, trade_off=trade_off),
        )
        name = f"{RIVAL}_{trade_off:g}"
        rivals[trade_off] = work.train(name, f"attention elsewhere (lambda {trade_off:g})", store, recipe, alone=True)
    guided = {}
    if asked.guided:
        guides: dict[str, Any] = {"attention": model, LEARNED: LEARNED, EVEN: EVEN}
        if rivals:
            guides[RIVAL] = next(iter(rivals.values()))
        for name, guide in guides.items():
            recipe = Recipe(partial(without_context, weights=guide))
            guided[name] = work.train(f"guided_{name}", f"no context, steps weighed by {name}", store, recipe)
    return replace(found, even=even, rivals=rivals, guided=guided, spread=spread)


def _spread(settings: Settings, trained: TrainedRun, store: Store) -> Any:
    """The standard deviation of each predicted column on `tuning`, as a tensor (P,)."""
    import torch

    from ehrseq.workflows.scorers import network_scorer

    scorer = network_scorer(trained.model(), trained.settings)
    spread = scorer.score(store, store.samples("tuning"), settings).std(axis=0)
    return torch.from_numpy(np.maximum(spread, 1e-6).astype(np.float32))


@dataclass(frozen=True)
class _Training:
    """What all trainings have in common.

    Attributes:
        settings: As the run was trained, in one process.
        start: What they begin with, where the run did.
    """

    settings: Settings
    prepared: Prepared
    trained: TrainedRun
    start: "Start | None"
    force: bool

    @classmethod
    def begin(cls, settings: Settings, prepared: Prepared, trained: TrainedRun) -> "_Training":
        """Take from a command where and on what it is trained, and from the run all else."""
        own = trained.settings
        here = {"accelerator": settings.trainer.accelerator, "progress": settings.trainer.progress}
        trainer = own.trainer.model_copy(update={**here, "devices": 1, "nodes": 1, "profile": False})
        same = own.model_copy(update={"members": 1, "members_by": "seeds", "trainer": trainer, "paths": settings.paths})
        return cls(same, prepared, trained, find_start(same, prepared), settings.force)

    def train(
        self,
        name: str,
        words: str,
        store: Store,
        recipe: Recipe | None = None,
        seed: int | None = None,
        alone: bool = False,
    ) -> "SequenceModel":
        """Train one network, or find it trained.

        Args:
            name: Of its folder.
            words: What is different about it.
            store: What it learns from.
            recipe: How it departs from the run's.
            seed: Its seed; the run's by default.
            alone: Whether it has a loss of its own, by which the best epoch is chosen.
        """
        from safetensors.torch import load_file, save_file

        recipe = recipe or Recipe()
        settings = self.settings if seed is None else self.settings.model_copy(update={"seed": seed})
        if alone:
            trainer = settings.trainer.model_copy(update={"monitor": "tuning/loss"})
            settings = settings.model_copy(update={"trainer": trainer})
        folder = self.trained.folder / CONTROLS / name
        key = {**train_key(settings, self.prepared), "control": name, "weights": self.trained.weights_digest}
        if self.force or not is_current(folder, key):
            kept_at = self.trained.folder / f"{CHECKPOINTS}_{name}"
            with (
                timed(f"explain: trained a network for the verdict: {words}"),
                checkpoints(settings, kept_at, key) as kept,
                atomic_folder(folder) as staging,
            ):
                model, fitted = learn(settings, store, kept, _ignore, None, self.start, recipe)
                save_file(model.state_dict(), staging / WEIGHTS)
                write_manifest(staging, CONTROLS, key, best_epoch=fitted.epoch, epochs=fitted.epochs)
        built = recipe.alter(self.trained.blank())
        built.load_state_dict(load_file(folder / WEIGHTS))
        return built.eval()


def _ignore(*_: object) -> None:
    """Nobody follows the figures of each epoch."""
