"""The sweeper `hydra/sweeper=ehrseq`: several equal workers, which draw their trials from a queue that they share.

Hydra's own sweepers make a list of jobs and wait for the slowest of each batch. Here a launcher starts workers instead,
and each takes the next trial from the sweep's queue (an Optuna study or a list) as soon as it is free. Workers that
are started elsewhere take from the same queue.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class SweeperConfig:
    """Settings of the sweeper.

    Attributes:
        workers: How many to start.
    """

    _target_: str = "hydra_plugins.ehrseq_sweeper.sweeper.EhrseqSweeper"
    workers: int = 1


class EhrseqSweeper(Sweeper):
    """Starts workers by the launcher that Hydra was told.

    Args:
        workers: How many.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.launcher: Launcher | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Makes the launcher."""
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Runs the task once for each worker, with the same words."""
        assert self.launcher is not None
        jobs: Sequence[Sequence[str]] = [list(arguments) for _ in range(self.workers)]
        return self.launcher.launch(jobs, initial_job_idx=0)


ConfigStore.instance().store(group="hydra/sweeper", name="ehrseq", node=SweeperConfig, provider="ehrseq")
