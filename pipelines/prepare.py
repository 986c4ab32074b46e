"""DVC stage `prepare`: see `dvc.yaml`."""

import sys

from ehrseq.errors import EhrseqError
from ehrseq.workflows.stages import prepare_stage

try:
    prepare_stage()
except EhrseqError as error:
    sys.exit(f"error: {error}")
