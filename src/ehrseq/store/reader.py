"""Opening a store."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ehrseq.errors import DataError
from ehrseq.files import read_json
from ehrseq.store.format import ARRAY_NAMES, DTYPES, META, Arrays, Store


def map_array(folder: Path, name: str) -> NDArray[Any]:
    """Map one array of a store whose `meta.json` is not written yet."""
    path = folder / f"{name}.npy"
    try:
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except ValueError:  # an empty file cannot be mapped
        empty: NDArray[Any] = np.load(path, allow_pickle=False)
        return empty


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
    tables = {name: tuple(meta.pop(name)) for name in ("codes", "statics", "numeric", "subjects")}
    return Store(folder, Arrays(**arrays), **tables, meta=meta)
