"""The launcher `hydra/launcher=ehrseq_ray`: each job is a Ray task, on this machine or anywhere in a cluster.

Hydra's own Ray launcher (1.2.2) asks for cloudpickle < 3, which neither joblib nor MLflow nor DVC can live with.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict


@dataclass
class RayLauncherConfig:
    """Settings of the launcher.

    Attributes:
        address: Of the cluster; null: the one that RAY_ADDRESS names, else this machine.
        num_cpus: Of each job.
        num_gpus: Of each job.
        init: More arguments of `ray.init`, such as `runtime_env`.
    """

    _target_: str = "hydra_plugins.ehrseq_sweeper.ray_launcher.RayLauncher"
    address: str | None = None
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    init: dict[str, Any] = field(default_factory=dict)


class RayLauncher(Launcher):
    """Runs jobs as Ray tasks, spread over the nodes, which must see the same folders.

    Args:
        address: Of the cluster.
        num_cpus: Of each job.
        num_gpus: Of each job.
        init: More arguments of `ray.init`.
    """

    def __init__(self, address: str | None, num_cpus: float, num_gpus: float, init: DictConfig) -> None:
        self.address = address
        self.num_cpus = num_cpus
        self.num_gpus = num_gpus
        self.init = init
        self.setting: tuple[HydraContext, TaskFunction, DictConfig] | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Remembers what the jobs need."""
        self.setting = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Starts a task for each job and waits for all; one that dies with its node spares the others."""
        import ray

        assert self.setting is not None
        context, function, config = self.setting
        ours = not ray.is_initialized()
        if ours:
            more = OmegaConf.to_container(self.init, resolve=True)
            assert isinstance(more, dict)
            options = {"log_to_driver": False, "logging_level": logging.ERROR, "include_dashboard": False}
            if self.address is not None:
                options.pop("include_dashboard")  # the cluster is there already
            ray.init(address=self.address, **{**options, **{str(key): value for key, value in more.items()}})
        try:
            remote = ray.remote(_run).options(
                num_cpus=self.num_cpus, num_gpus=self.num_gpus, scheduling_strategy="SPREAD", max_retries=0
            )
            state = Singleton.get_state()
            pending = []
            for number, overrides in enumerate(job_overrides, initial_job_idx):
                job = context.config_loader.load_sweep_config(config, list(overrides))
                with open_dict(job):
                    job.hydra.job.id = job.hydra.job.num = number
                pending.append(remote.remote(context, function, job, state))
            returns, lost = [], []
            for reference in pending:
                try:
                    returns.append(ray.get(reference))
                except ray.exceptions.RayError as error:
                    lost.append(error)
            if lost:
                raise lost[0]
            return returns
        finally:
            if ours:
                ray.shutdown()


def _run(context: HydraContext, function: TaskFunction, config: DictConfig, state: dict[Any, Any]) -> JobReturn:
    """One job, in a Ray worker."""
    setup_globals()
    Singleton.set_state(state)
    return run_job(
        hydra_context=context,
        task_function=function,
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )


ConfigStore.instance().store(group="hydra/launcher", name="ehrseq_ray", node=RayLauncherConfig, provider="ehrseq")
