"""Data sets into a store: what `funcattr.sweep_dataset` returns, and ready-made targets for it."""

from .storage.summary import Summary
from .targets import label_and_runner_up, top_k

__all__ = ["Summary", "label_and_runner_up", "top_k"]
