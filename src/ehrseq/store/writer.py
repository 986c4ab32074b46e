"""Writing a store."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ehrseq.files import write_json
from ehrseq.store.format import ARRAY_NAMES, DTYPES, META, Arrays


def write_store(folder: Path, arrays: Arrays, codes: Sequence[str], statics: Sequence[str], **meta: Any) -> None:
    """Write arrays and `meta.json` into an existing folder, which the caller makes appear atomically."""
    for name in ARRAY_NAMES:
        array = np.ascontiguousarray(getattr(arrays, name), dtype=DTYPES[name])
        np.save(folder / f"{name}.npy", array, allow_pickle=False)
    shapes = {name: list(getattr(arrays, name).shape) for name in ARRAY_NAMES}
    write_json(folder / META, {"codes": list(codes), "statics": list(statics), "shapes": shapes, **meta})
