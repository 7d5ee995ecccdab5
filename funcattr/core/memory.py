"""How many targets fit in memory at once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten

from .contexts import watching


class Largest(TorchFunctionMode):
    """Measures the largest tensor in bytes of the part of a forward pass that is differentiated."""

    def __init__(self) -> None:
        super().__init__()
        self.nbytes = 0
        self._sites = watching(self._see)

    def __enter__(self) -> Largest:
        self._sites.__enter__()
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *exc: Any) -> None:
        super().__exit__(*exc)  # type: ignore[no-untyped-call]
        self._sites.__exit__(*exc)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        self._see(out)
        return out

    def _see(self, out: Any) -> None:
        for t in out if isinstance(out, tuple) else (out,):
            if isinstance(t, Tensor) and t.requires_grad:
                self.nbytes = max(self.nbytes, t.numel() * t.element_size())


BLOCK = 2**25 - 2**16  # the largest that glibc adapts to, less what it writes beside it


def keep_blocks() -> None:
    """Lets the C library hand freed memory to the next tensor, not back to the system.

    As a freed block of 32 MB does in any program: glibc adapts to it (mallopt(3), M_MMAP_THRESHOLD
    and M_TRIM_THRESHOLD). The many tensors of 1 to 30 MB of a backward pass are then faulted in
    once and not each time, which was a tenth of a sweep. Nothing is written to the block.
    """
    torch.empty(BLOCK, dtype=torch.uint8, device="cpu")


def fitting(largest: Largest, args: tuple[Any, ...], limit: int, block: int = 2**25) -> int:
    """How many targets, up to ``limit``, fit in half of the memory that is there.

    On a CPU no tensor is to be larger than ``block`` bytes.

    A backward pass holds few cotangents at a time, each no larger than the largest activation, and
    the copies that a convolution makes of its own: eight of them are on the safe side.
    """
    tensors = [t for t in tree_flatten(args)[0] if isinstance(t, Tensor)]
    inputs = sum(t.numel() * t.element_size() for t in tensors)
    device = tensors[0].device if tensors else torch.device("cpu")
    count = _free_memory(device) // (2 * (8 * largest.nbytes + 2 * inputs) + 1)
    if device.type == "cpu":
        # glibc gives larger blocks back at once and faults them in anew, at twice the time.
        count = min(count, block // (largest.nbytes + 1))
    return int(max(1, min(count, limit)))


def _free_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    meminfo, free = Path("/proc/meminfo"), 2**30
    if meminfo.exists():
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    elif "SC_AVPHYS_PAGES" in os.sysconf_names:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    group = Path("/sys/fs/cgroup")  # a container may have less than the machine
    if (group / "memory.max").exists():
        limit = (group / "memory.max").read_text().strip()
        if limit != "max":
            free = min(free, int(limit) - int((group / "memory.current").read_text()))
    return max(free, 0)
