"""DVC stage `evaluate`: see `dvc.yaml`."""

import sys

from ehrseq.errors import EhrseqError
from ehrseq.workflows.stages import evaluate_stage

try:
    evaluate_stage()
except EhrseqError as error:
    sys.exit(f"error: {error}")
