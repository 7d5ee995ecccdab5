"""Examples that fail are recorded, and nothing else suffers; stores that fail are said to."""

import errno
import tracemalloc

import numpy as np
import pytest
import torch

pytest.importorskip("zarr")
import zarr
from dataset_cases import CLASSES, Pictures, Stream, attributions, contents, model, swept
from torch import nn

import funcattr as fa
from funcattr.core.private import is_batched, unbatched
from funcattr.errors import FuncattrError, StoreError

COUNT = 10
XS = Pictures(COUNT).xs


def maps(store, name="guided"):
    return zarr.open_group(store, mode="r")[name][:]


def status(store):
    return zarr.open_group(store, mode="r")["status"][:].tolist()


def test_broken_examples(tmp_path):
    data = Pictures(COUNT, broken=[3], nan=[6], odd=[8])
    swept(tmp_path / "whole", Pictures(COUNT))
    done = swept(tmp_path / "store", data)
    assert done.done == 7 and done.exit_status == 1 and not done.complete
    assert dict(done.failed) == {
        3: "OSError: picture 3 is broken",
        6: "the input is not finite",
        8: "ValueError: a map of (2, 4, 5), where others are (2, 5, 5)",
    }
    assert "example 3: OSError: picture 3 is broken" in str(done)
    for name in ("guided", "cam"):
        came, whole = maps(tmp_path / "store", name), maps(tmp_path / "whole", name)
        assert np.isnan(came[[3, 6, 8]]).all()
        assert np.array_equal(came[[0, 1, 4, 5]], whole[[0, 1, 4, 5]])  # bit for bit
        assert np.allclose(came[[2, 7, 9]], whole[[2, 7, 9]], atol=1e-6)
    assert status(tmp_path / "store") == [1, 1, 1, 3, 1, 1, 3, 1, 3, 2]
    assert swept(tmp_path / "store", data).computed == 0


def test_failed_examples_are_tried_again_when_asked_to(tmp_path):
    data = Pictures(COUNT, broken=[3])
    swept(tmp_path, data)
    data.broken.clear()
    assert swept(tmp_path, data).computed == 0
    again = swept(tmp_path, data, retry_failed=True)
    assert again.computed == 2 and again.complete
    swept(tmp_path / "whole", data)
    assert np.array_equal(maps(tmp_path), maps(tmp_path / "whole"))


class Limited(nn.Module):
    """Raises as a device without memory does, by how much is asked of it at once."""

    def __init__(self, most):
        super().__init__()
        self.net, self.most = model(), most

    def forward(self, x):
        if x.numel() // 50 > self.most:
            raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate")
        return self.net(x)


def test_out_of_memory_is_retried_smaller(tmp_path):
    attr = fa.guided_backprop(Limited(1))
    done = swept(tmp_path / "small", XS, attr, batch_size=4)
    assert done.complete and done.smaller == COUNT and done.exit_status == 0
    swept(tmp_path / "whole", XS, attributions()["guided"], batch_size=4)
    got, expected = maps(tmp_path / "small", "maps"), maps(tmp_path / "whole", "maps")
    assert np.allclose(got, expected, atol=1e-6)


def test_chunks_are_halved_before_batches(tmp_path):
    seen = []

    def linearize(x):
        out, explain = attributions()["guided"].linearize(x)

        def limited(target):
            if is_batched(target.value):
                seen.append(len(unbatched(target.value)))
                if seen[-1] > 2:
                    raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
            return explain(target)

        return out, limited

    done = swept(tmp_path, XS, fa.Attribution(linearize), chunk_size=5)
    assert done.complete and done.smaller == COUNT
    assert set(seen) == {5, 2, 1}


class Moody(nn.Module):
    """Fails on inputs that hold a large number."""

    def __init__(self):
        super().__init__()
        self.net = model()

    def forward(self, x):
        if (x > 50).any():
            raise ValueError("too large")
        return self.net(x) * torch.where(x < -50, torch.inf, 1.0).amax((1, 2, 3))[:, None]


@pytest.mark.parametrize("batch_size", [1, 4, 10])
def test_one_example_does_not_spoil_a_batch(tmp_path, batch_size):
    xs = XS.clone()
    xs[4, 0, 0, 0], xs[7, 0, 0, 0] = 100.0, -100.0
    done = swept(tmp_path / "store", xs, fa.guided_backprop(Moody()), batch_size=batch_size)
    assert [number for number, _ in done.failed] == [4, 7]
    assert done.failed[0][1] == "ValueError: too large"
    assert done.failed[1][1] == "a map of targets 0 to 4 is not finite"
    came = maps(tmp_path / "store", "maps")
    swept(tmp_path / "whole", xs, attributions()["guided"], batch_size=1)
    rest = [i for i in range(COUNT) if i not in (4, 7)]
    assert np.allclose(came[rest], maps(tmp_path / "whole", "maps")[rest], atol=1e-6)
    assert np.isnan(came[[4, 7]]).all()


def test_numbers_that_a_type_cannot_hold(tmp_path):
    xs = torch.ones(3, 4)
    xs[1] = 1e6
    done = swept(tmp_path, xs, fa.gradient(lambda x: x**2), targets=[0], dtype="float16")
    assert done.failed == [
        (1, "a map of targets 0 to 0 is larger than torch.float16 can hold; store float32")
    ]


def test_a_shard_is_cleared_where_a_later_target_fails(tmp_path, monkeypatch):
    from funcattr.dataset.storage import layout

    monkeypatch.setattr(layout, "CHUNK", 16)
    monkeypatch.setattr(layout, "LARGEST_SHARD", 16)

    def late(x):  # only the last target's map is not finite, of the last example
        return x, lambda target: x * torch.where((x > 5) & (target.value == 3), torch.inf, 1.0)

    xs = torch.ones(3, 4)
    xs[2] = 9.0
    how = {"targets": range(4), "chunk_size": 1, "batch_size": 1}
    done = swept(tmp_path, xs, fa.Attribution(late), **how)
    assert done.failed == [(2, "a map of targets 3 to 3 is not finite")]
    came = maps(tmp_path, "maps")
    assert np.isnan(came[2]).all() and (came[:2] == 1).all()


def test_a_target_that_does_not_fit(tmp_path):
    """By a wrong label, say: of that example alone."""
    data = [(x, 99 if i == 6 else i % CLASSES) for i, x in enumerate(XS)]
    done = swept(tmp_path, data, targets=lambda label: label[:, None])
    assert [number for number, _ in done.failed] == [6]
    assert "lies in -5..4; got 99" in done.failed[0][1]


def test_memory_is_that_of_a_few_blocks(tmp_path, monkeypatch):
    """However many there are: what waits to be written is bounded."""
    from funcattr.dataset import blocks

    monkeypatch.setattr(blocks, "SHARD", 20 * 64 * 64 * 4)

    def peak(count):
        xs = torch.ones(count, 64, 64)
        attr = fa.gradient(lambda x: x.flatten(1).square())
        tracemalloc.start()
        swept(tmp_path / str(count), xs, attr, targets=range(20), batch_size=1)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    first, one_block = peak(4), 20 * 64 * 64 * 4
    assert peak(40) < 1.5 * first + 4 * one_block


def test_an_iterator_that_fails(tmp_path):
    with pytest.raises(FuncattrError, match=r"data raised OSError: picture 7 is broken before"):
        swept(tmp_path, Stream(Pictures(COUNT, broken=[7])), length=COUNT)
    assert status(tmp_path) == [1] * 6 + [0] * 4
    assert swept(tmp_path, Stream(Pictures(COUNT)), length=COUNT).complete
    with pytest.raises(fa.ArgumentError, match="data ended before example 11"):
        swept(tmp_path / "long", Stream(Pictures(COUNT)), length=12)


def test_when_nothing_works(tmp_path):
    with pytest.raises(fa.ArgumentError, match="none of the first examples of data works: OSErr"):
        swept(tmp_path / "store", Pictures(COUNT, broken=range(COUNT)))
    assert not (tmp_path / "store").exists()


class Full(zarr.storage.LocalStore):
    """A disk that is full after some writes, in the middle of one."""

    room = 30

    async def set(self, key, value):
        if type(self).room <= 0:
            (self.root / key).parent.mkdir(parents=True, exist_ok=True)
            (self.root / f"{key}.half.partial").write_bytes(value.to_bytes()[:-1])
            raise OSError(errno.ENOSPC, "No space left on device")
        type(self).room -= 1
        await super().set(key, value)


def test_a_full_disk(tmp_path):
    swept(tmp_path / "whole", XS)
    Full.room = 30
    with pytest.raises(StoreError, match=r"cannot be written: .*No space left on device"):
        swept(Full(tmp_path / "store"), XS)
    so_far = status(tmp_path / "store")
    assert 0 < sum(so_far) < COUNT
    for i in np.flatnonzero(so_far):
        assert np.array_equal(maps(tmp_path / "store")[i], maps(tmp_path / "whole")[i])
    done = swept(tmp_path / "store", XS)
    assert done.computed == COUNT - sum(so_far)
    assert contents(tmp_path / "store") == contents(tmp_path / "whole")


class Flaky(zarr.storage.LocalStore):
    """A disk that has no room for maps, and some for what is small."""

    async def set(self, key, value):
        if key.startswith("guided/c/2"):
            raise OSError(errno.ENOSPC, "No space left on device")
        await super().set(key, value)


def test_what_could_not_be_written_is_not_done(tmp_path):
    with pytest.raises(StoreError, match="No space left"):
        swept(Flaky(tmp_path), XS)
    assert status(tmp_path) == [1, 1, 1, 1] + [0] * 6


def test_a_store_that_is_read_only(tmp_path):
    place = zarr.storage.LocalStore(tmp_path, read_only=True)
    with pytest.raises(StoreError, match="read-only"):
        swept(place, XS)
    assert not list(tmp_path.iterdir())
    swept(tmp_path / "store", Pictures(COUNT), length=COUNT)
    for path in (tmp_path / "store" / "status" / "c").iterdir():
        path.unlink()
    before = contents(tmp_path / "store")
    with pytest.raises(StoreError, match=r"read-only.*stays"):
        place = zarr.storage.LocalStore(tmp_path / "store", read_only=True)
        swept(place, Pictures(COUNT), length=COUNT)
    assert contents(tmp_path / "store") == before


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be"):
        swept(tmp_path / "file" / "store", XS)
    assert CLASSES  # nothing else was touched
