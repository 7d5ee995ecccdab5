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


def share(missing: Callable[[], Sequence[int]]) -> list[int]:
    """What falls to this process of the blocks that are missing.

    Of processes that can speak to each other (an initialised torch.distributed, or the address that
    torchrun gives) the first says once what is missing, before any of them begins, and each takes
    its part of that. Without an address, as in a job array, a block belongs to the rank that is its
    number modulo the number of ranks, whatever is missing.
    """
    rank, size = rank_and_size()
    if size == 1:
        return list(missing())
    if dist.is_available() and dist.is_initialized():
        return _agreed(missing)[rank::size]
    if dist.is_available() and all(name in os.environ for name in _PLACE):
        dist.init_process_group("gloo", init_method="env://", timeout=timedelta(minutes=30))
        try:
            return _agreed(missing)[rank::size]
        finally:
            dist.destroy_process_group()
    return [number for number in missing() if number % size == rank]


def _agreed(missing: Callable[[], Sequence[int]]) -> list[int]:
    said: list[object] = [list(missing()) if dist.get_rank() == 0 else None]
    cuda = dist.get_backend() == "nccl"
    device = torch.device("cuda", torch.cuda.current_device()) if cuda else None
    dist.broadcast_object_list(said, 0, device=device)
    found = said[0]
    assert isinstance(found, list)
    return found
