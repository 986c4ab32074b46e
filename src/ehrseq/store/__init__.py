"""The store: one dataset as flat, memory-mapped numpy arrays under one fitted preprocessing."""

from ehrseq.store.format import Arrays, Store
from ehrseq.store.reader import open_store
from ehrseq.store.writer import write_store

__all__ = ["Arrays", "Store", "open_store", "write_store"]
