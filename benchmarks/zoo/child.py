"""One library in a process of its own: a line of JSON when a model begins and when it is done."""

from __future__ import annotations

import gc
import importlib
import json
import os
import resource
import signal
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

LIMIT = 120  # seconds a model has
MEMORY = 10 * 2**30

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is fetched while it runs
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


class OutOfTime(BaseException):
    """Not an Exception, so that nobody who catches those takes it for one of a model."""


def _out_of_time(number: int, frame: object) -> None:
    raise OutOfTime


class Told(dict[str, Any]):
    """A record that says what it is doing, so that a process that ends leaves word of it."""

    def __init__(self, say: Callable[..., None], **first: Any):
        super().__init__(first)
        self.say = say

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        if key == "doing":
            self.say(doing=value)


def main() -> None:
    """The command line: a library, a file to append to, and which models are done."""
    library, out, done = sys.argv[1], Path(sys.argv[2]), set(json.loads(sys.argv[3]))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    warnings.simplefilter("ignore")
    import torch

    # The compiled part of torchvision's wheel is for CUDA; without it the package asks for these.
    for name in ("nms", "qnms"):
        schema = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        torch.library.define(f"torchvision::{name}", schema)
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    from . import judge

    signal.signal(signal.SIGALRM, _out_of_time)
    with out.open("a", encoding="utf-8") as file:

        def say(**line: Any) -> None:
            file.write(json.dumps(line) + "\n")
            file.flush()

        zoo = importlib.import_module(f"benchmarks.zoo.libraries.{library}").cases()
        say(models=list(zoo))
        for name, build in zoo.items():
            if name in done or os.environ.get("ZOO_ONLY", "") not in name:
                continue
            say(begins=name)
            record = Told(say, name=name)
            begin = time.perf_counter()
            signal.alarm(LIMIT)
            try:
                judge.examine(build, record)
            except judge.NotCounted as why:
                record["not_counted"] = str(why)
            except (OutOfTime, MemoryError) as why:
                record["failed"] = type(why).__name__
            except Exception as error:
                record["not_counted"] = f"the judge fails: {judge.first_line(error)}"
            finally:
                signal.alarm(0)
            record["seconds"] = round(time.perf_counter() - begin, 2)
            say(record=record)
            gc.collect()  # models have circles, and the next one needs the memory


if __name__ == "__main__":
    main()
