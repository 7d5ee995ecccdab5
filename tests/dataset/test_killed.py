"""Sweeps that are killed at any moment, made again, and are what they would have been."""

import os
import random
import time
from functools import partial

import pytest
import torch

pytest.importorskip("zarr")
from dataset_cases import Pictures, contents, kill, process, ranks, swept, tried, wait

import funcattr as fa

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here"),
    # Python 3.12 warns of every fork in a process that has threads, and those that torch starts.
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]
GONE = getattr(os, "WEXITED", 0) | getattr(os, "WNOHANG", 0) | getattr(os, "WNOWAIT", 0)
KILLS = 32
COUNT = 90


def blocks(store):
    """How many are done."""
    return len([p for p in store.glob("status/c/*") if p.name.isdigit()])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The files of a sweep that nobody interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    assert swept(folder, Pictures(COUNT, nan=[5])).missing == 0
    return contents(folder)


@pytest.mark.parametrize("group", [None, 2])
def test_killed_at_random_and_resumed(tmp_path, whole, monkeypatch, group):
    if group is not None:  # targets: several shards to a block, whose order a death can split
        from funcattr.dataset.storage import layout

        monkeypatch.setattr(layout, "CHUNK", 2 * 2 * 5 * 5 * 4)
        monkeypatch.setattr(layout, "LARGEST_SHARD", 4 * 2 * 5 * 5 * 4)
        reference = tmp_path / "reference"
        swept(reference, Pictures(COUNT, nan=[5]))
        whole = contents(reference)
        assert sum(name.startswith("guided/c/0/") for name in whole) > 1
    store, chance = tmp_path / "store", random.Random(KILLS)
    killed = tries = begun = 0
    while killed < KILLS:
        tries += 1
        assert tries < 6 * KILLS
        pid = process(partial(swept, store, Pictures(COUNT, nan=[5], seconds=0.002)))
        enough = blocks(store) + chance.randrange(5)
        while blocks(store) < enough and os.waitid(os.P_PID, pid, GONE) is None:
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.03))
        died = kill(pid)
        killed += died
        begun += died and 0 < blocks(store) < COUNT // 2
        if blocks(store) == COUNT // 2 and killed < KILLS:  # what follows is killed in a new one
            swept(store, Pictures(COUNT, nan=[5]))
            assert contents(store) == whole
            store = tmp_path / f"store{tries}"
    assert begun >= 20  # the others died before the store was made, or after their last block
    last = swept(store, Pictures(COUNT, nan=[5]))
    assert (last.done, last.missing, len(last.failed)) == (COUNT - 1, 0, 1)
    assert contents(store) == whole


@pytest.mark.parametrize("counts", [(2, 3), (3, 2), (3, 1)])
def test_ranks_one_of_which_is_killed_and_another_number_of_them(tmp_path, whole, counts):
    store, notes = tmp_path / "store", tmp_path / "notes"
    notes.mkdir()
    slow = Pictures(COUNT, nan=[5], seconds=0.004)
    first = ranks(counts[0], lambda: swept(store, slow), notes)
    while blocks(store) < 6:
        time.sleep(0.01)
    died = kill(first[-1])
    for pid in first[:-1]:
        wait(pid)
    assert died
    between = swept_so_far(store)
    assert 0 < between.missing < COUNT and between.missing + between.done + 1 >= COUNT
    before = tried(notes)
    again = ranks(counts[1], lambda: swept(store, slow), notes)
    for pid in again:
        wait(pid)
    assert tried(notes) - before == between.missing  # none twice, none lost
    assert contents(store) == whole


@pytest.mark.parametrize("meeting", ["by torchrun's address", "by the user", "nowhere"])
@pytest.mark.parametrize("size", [2, 3])
def test_ranks_share(tmp_path, whole, size, meeting):
    notes = tmp_path / "notes"
    notes.mkdir()
    data = Pictures(COUNT, nan=[5])

    def run():
        if meeting == "by the user":
            torch.distributed.init_process_group("gloo")
        return swept(tmp_path / "store", data)

    for pid in ranks(size, run, notes, gloo=meeting != "nowhere"):
        wait(pid)
    assert tried(notes) == COUNT
    assert len(list(notes.iterdir())) == size
    swept(tmp_path / "store", data)
    assert contents(tmp_path / "store") == whole


def test_two_jobs_on_one_store_at_once(tmp_path, whole):
    """They do work twice, and harm nothing."""
    data = Pictures(COUNT, nan=[5])
    for pid in [process(partial(swept, tmp_path / "store", data)) for _ in range(3)]:
        wait(pid)
    assert contents(tmp_path / "store") == whole


def swept_so_far(store):
    from funcattr.dataset.storage.store import Store
    from funcattr.dataset.storage.summary import summary

    return summary(Store(store))


def test_a_rank_that_does_not_fit(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(fa.ArgumentError, match="RANK='2' and WORLD_SIZE='2'"):
        swept(tmp_path / "store", Pictures(4))
