"""DVC stage `link`: see `dvc.yaml`."""

import sys

from ehrseq.errors import EhrseqError
from ehrseq.workflows.stages import link_stage

try:
    link_stage()
except EhrseqError as error:
    sys.exit(f"error: {error}")
