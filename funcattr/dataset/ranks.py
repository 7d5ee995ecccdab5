"""Which of several processes does what, by what torchrun or torch.distributed says."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import timedelta

import torch
import torch.distributed as dist

from ..errors import ArgumentError

__all__ = ["rank_and_size", "share"]

_PLACE = ("MASTER_ADDR", "MASTER_PORT")


def rank_and_size() -> tuple[int, int]:
    """Of torch.distributed where it is initialised, else of torchrun's environment variables.

    Raises:
        ArgumentError: the variables are not two ints that fit.
    """
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    rank, size = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
    if rank is None or size is None:
        return 0, 1
    if not (rank.isdigit() and size.isdigit() and int(rank) < int(size)):
        raise ArgumentError(f"RANK={rank!r} and WORLD_SIZE={size!r} are no rank out of a number.")
    return int(rank), int(size)


def share(missing: Callable[[], Sequence[int]], blocks: int) -> list[int]:
    """What falls to this process of the blocks that are missing, out of a number of blocks.

    Of processes that can speak to each other (an initialised torch.distributed, or the address that
    torchrun gives) the first says once what is missing, before any of them begins, and each takes
    its part of that. Without an address, as in a job array, a block belongs to the rank that is its
    number modulo the number of ranks, whatever is missing.
    """
    rank, size = rank_and_size()
    if size == 1:
        return list(missing())
    if dist.is_available() and dist.is_initialized():
        said = _agreed(missing, blocks)
    elif dist.is_available() and all(name in os.environ for name in _PLACE):
        dist.init_process_group("gloo", init_method="env://", timeout=timedelta(minutes=30))
        try:
            # Gloo's thread has this tensor, too. While there is a name for it here, the thread can
            # let go of it without Python, for which it would wait, and the group for the thread.
            said = _agreed(missing, blocks)
        finally:
            dist.destroy_process_group()
    else:
        return [number for number in missing() if number % size == rank]
    numbers: list[int] = said.nonzero().flatten().tolist()
    return numbers[rank::size]


def _agreed(missing: Callable[[], Sequence[int]], blocks: int) -> torch.Tensor:
    """For each block whether it is missing, as the first process finds it."""
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    said = torch.zeros(blocks, dtype=torch.uint8, device=device)
    if dist.get_rank() == 0:
        said[list(missing())] = 1
    dist.broadcast(said, 0)
    return said
