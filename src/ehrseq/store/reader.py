"""Opening a store."""

from pathlib import Path

import numpy as np

from ehrseq.errors import DataError
from ehrseq.files import read_json
from ehrseq.store.format import ARRAY_NAMES, DTYPES, META, Arrays, Store


def open_store(folder: Path) -> Store:
    """Map a store into memory; no array is read before it is used.

    Raises:
        DataError: If a file is missing, cut short, or not what `meta.json` says.
    """
    meta = read_json(folder / META)
    arrays = {}
    for name in ARRAY_NAMES:
        path = folder / f"{name}.npy"
        try:
            # An empty file cannot be mapped; a file that is too short is refused here, not by a signal later.
            empty = 0 in meta["shapes"][name]
            array = np.load(path, mmap_mode=None if empty else "r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{path} cannot be opened ({error}); delete {folder} and prepare again") from error
        if list(array.shape) != meta["shapes"][name] or array.dtype != np.dtype(DTYPES[name]):
            raise DataError(
                f"{path} holds {array.dtype}{array.shape}, expected {DTYPES[name]}{tuple(meta['shapes'][name])}; "
                f"delete {folder} and prepare again"
            )
        # A plain array over the same pages: subclass checks of np.memmap cost more than small slices do.
        arrays[name] = np.asarray(array)
    return Store(folder, Arrays(**arrays), tuple(meta.pop("codes")), tuple(meta.pop("statics")), meta)
