"""Handing workers to one of Hydra's launchers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ehrseq.config.load import CONFIG_NAME, conf_dir
from ehrseq.config.sweep import Plan
from ehrseq.errors import RunError

# Hydra's word for a launcher, and the key of how many jobs it runs at a time.
_LAUNCHERS = {
    "local": ("basic", None),
    "joblib": ("joblib", "n_jobs"),
    "submitit_local": ("submitit_local", "array_parallelism"),
    "submitit_slurm": ("submitit_slurm", "array_parallelism"),
    "ray": ("ehrseq_ray", None),
}


def launch(plan: Plan, worker: Callable[[Any], int], workers: int, folder: Path) -> list[str]:
    """Run a task as often as there are workers, wherever the launcher puts them, and wait for all.

    Args:
        plan: Names the launcher.
        worker: The task; can be pickled.
        workers: How many.
        folder: For what the launcher writes.

    Returns:
        A line on each worker that ended with an exception.

    Raises:
        RunError: If the launcher itself fails.
    """
    from hydra._internal.hydra import Hydra
    from hydra._internal.utils import create_config_search_path
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.utils import JobStatus

    name, parallel = _LAUNCHERS[plan.sweep.launcher]
    words = [
        f"hydra/launcher={name}",
        "hydra/sweeper=ehrseq",
        f"hydra.sweeper.workers={workers}",
        f"hydra.sweep.dir='{folder}'",
        "hydra.sweep.subdir=.",
        "hydra.output_subdir=null",
        "hydra/job_logging=none",
        "hydra/hydra_logging=none",
        *([f"hydra.launcher.{parallel}={workers}"] if parallel else []),
        *plan.launcher_words,
    ]
    GlobalHydra.instance().clear()
    hydra = Hydra.create_main_hydra2("ehrseq", create_config_search_path(str(conf_dir())))
    try:
        returns = hydra.multirun(CONFIG_NAME, worker, words, with_log_configuration=False)
    except Exception as error:
        if plan.sweep.launcher == "local":
            raise
        # What joblib, submitit and Ray raise when a worker is lost differs; the trials it had are due again.
        return [f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"]
    finally:
        GlobalHydra.instance().clear()
    failed = [job for job in returns if job.status != JobStatus.COMPLETED]
    for job in failed:
        if isinstance(job._return_value, RunError):
            raise job._return_value
    return [f"{type(job._return_value).__name__}: {job._return_value}" for job in failed]
