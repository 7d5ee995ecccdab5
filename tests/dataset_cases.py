"""Small sweeps over a data set, in this process and in others."""

import contextlib
import json
import os
import signal
import socket
import time
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import Dataset

import funcattr as fa

CLASSES = 5


class Pictures(Dataset):
    """Pairs of a picture and a label; some of them may be broken, and loading may take its time."""

    def __init__(self, count, *, broken=(), nan=(), odd=(), seconds=0.0):
        xs = torch.randn(count, 2, 5, 5, generator=torch.Generator().manual_seed(1))
        for i in nan:
            xs[i, 0, 0, 0] = torch.nan
        self.xs, self.broken, self.odd, self.seconds = xs, set(broken), set(odd), seconds

    def __len__(self):
        return len(self.xs)

    def __getitem__(self, i):
        time.sleep(self.seconds)
        if i in self.broken:
            raise OSError(f"picture {i} is broken")
        x = self.xs[i, :, :4] if i in self.odd else self.xs[i]
        return x, i % CLASSES


class Stream(torch.utils.data.IterableDataset):
    """The same, one after the other."""

    def __init__(self, pictures):
        self.pictures = pictures

    def __iter__(self):
        return (self.pictures[i] for i in range(len(self.pictures)))


def model(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, CLASSES)
    ).eval()


def attributions(seed=0):
    net = model(seed)
    return {"guided": fa.guided_backprop(net), "cam": fa.grad_cam(net, "1")}


def swept(store, data, attr=None, **options):
    """With what most of the tests have in common."""
    how = {"targets": range(CLASSES), "batch_size": 2, "progress": False, **options}
    return fa.sweep_dataset(attr or attributions(), data, store=store, **how)


def contents(folder):
    """Every file of a store."""
    files = [p for p in Path(folder).rglob("*") if p.is_file()]
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


def process(run, **environment):
    """The id of a fork of this process, which runs a function, and nothing else of pytest."""
    pid = os.fork()
    if pid:
        return pid
    status = 70
    try:
        torch.set_num_threads(1)
        os.environ.update(environment)
        run()
        status = 0
    except BaseException as error:
        os.write(2, f"in a process of a test: {type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(status)


def kill(pid):
    """Whether it was still there to be killed."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def wait(pid):
    _, status = os.waitpid(pid, 0)
    assert os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def ranks(size, run, notes, *, gloo=True):
    """The processes of a job, as torchrun would start them; each notes how much it did."""
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())} if gloo else {}

    def one(rank):
        def noted():
            done = run()
            (notes / f"{time.time_ns()}-{rank}.json").write_text(json.dumps(done.computed))

        return process(noted, RANK=str(rank), WORLD_SIZE=str(size), **place)

    return [one(rank) for rank in range(size)]


def tried(notes):
    """How many examples were tried by all ranks together that came to their end."""
    return sum(json.loads(path.read_text()) for path in notes.glob("*.json"))
