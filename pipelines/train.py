"""DVC stage `train`: see `dvc.yaml`."""

import sys

from ehrseq.errors import EhrseqError
from ehrseq.workflows.stages import train_stage

try:
    train_stage()
except EhrseqError as error:
    sys.exit(f"error: {error}")
