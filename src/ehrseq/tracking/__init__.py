"""Tracking: the only place that knows MLflow."""

from ehrseq.tracking.spool import Spool
from ehrseq.tracking.tracker import Dataset, RunTracker, describe_run_id

__all__ = ["Dataset", "RunTracker", "Spool", "describe_run_id"]
