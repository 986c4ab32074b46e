"""Tracking: the only place that knows MLflow."""

from ehrseq.tracking.spool import Spool
from ehrseq.tracking.tracker import RunTracker, describe_run_id

__all__ = ["RunTracker", "Spool", "describe_run_id"]
