"""Opening a store."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ehrseq.errors import DataError
from ehrseq.files import read_json
from ehrseq.store.format import ARRAY_NAMES, DTYPES, META, Arrays, Store


def map_array(path: Path, empty: bool) -> NDArray[Any]:
    """Map one array of a store into memory.

    Args:
        path: Its file.
        empty: Whether it has no elements; such a file cannot be mapped and is read.

    Raises:
        OSError: If the file is missing.
        ValueError: If it is not an array, or cut short, which else would show as a signal later.
        EOFError: If nothing is in it.
    """
    # A plain array over the same pages: subclass checks of np.memmap cost more than small slices do.
    return np.asarray(np.load(path, mmap_mode=None if empty else "r", allow_pickle=False))


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
            array = map_array(path, empty=0 in meta["shapes"][name])
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{path} cannot be opened ({error}); delete {folder} and prepare again") from error
        if list(array.shape) != meta["shapes"][name] or array.dtype != np.dtype(DTYPES[name]):
            raise DataError(
                f"{path} holds {array.dtype}{array.shape}, expected {DTYPES[name]}{tuple(meta['shapes'][name])}; "
                f"delete {folder} and prepare again"
            )
        arrays[name] = array
    tables = {name: tuple(meta.pop(name)) for name in ("codes", "statics", "numeric", "subjects")}
    return Store(folder, Arrays(**arrays), **tables, meta=meta)
