"""Data set x targets into a store of arrays: restartable, and shared out over processes.

`sweep_dataset`, what it returns, and ready-made targets.
"""

from .run import sweep_dataset
from .storage.summary import Summary
from .targets import label_and_runner_up, top_k

__all__ = ["Summary", "label_and_runner_up", "sweep_dataset", "top_k"]
