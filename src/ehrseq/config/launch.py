"""Handing workers to one of Hydra's launchers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ehrseq.config.load import CONFIG_NAME, conf_dir
from ehrseq.config.sweep import Plan
from ehrseq.errors import EhrseqError

# Hydra's word for a launcher, and what it is to be told.
_LAUNCHERS = {
    "local": ("basic", ()),
    "joblib": ("joblib", ("n_jobs={workers}",)),
    # Its jobs end after an hour, unless told otherwise; here nobody waits in line behind them.
    "submitit_local": ("submitit_local", ("timeout_min=100000",)),
    "submitit_slurm": ("submitit_slurm", ("array_parallelism={workers}",)),
    "ray": ("ehrseq_ray", ()),
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
        EhrseqError: If a worker cannot begin.
    """
    from hydra._internal.hydra import Hydra
    from hydra._internal.utils import create_config_search_path
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.utils import JobStatus

    name, told = _LAUNCHERS[plan.sweep.launcher]
    words = [
        f"hydra/launcher={name}",
        "hydra/sweeper=ehrseq",
        f"hydra.sweeper.workers={workers}",
        f"hydra.sweep.dir='{folder}'",
        "hydra.sweep.subdir=.",
        "hydra.output_subdir=null",
        "hydra/job_logging=none",
        "hydra/hydra_logging=none",
        *(f"hydra.launcher.{word.format(workers=workers)}" for word in told),
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
        # Here a worker is this very process: what it raises is not a lost job but what went wrong.
        if plan.sweep.launcher == "local" or isinstance(job._return_value, EhrseqError):
            raise job._return_value
    return [f"{type(job._return_value).__name__}: {job._return_value}" for job in failed]
