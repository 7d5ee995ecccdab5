"""``python -m funcattr``: a sweep from the command line, how far it is, and its pictures."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import composites, methods, postprocess
from ..errors import ArgumentError, FuncattrError
from ..methods.attribution import Attribution
from .estimate import estimate, in_bytes
from .prepare import Asked, prepared
from .ranks import rank_and_size
from .run import sweep_dataset
from .show import show
from .storage.store import Store, size_of
from .storage.summary import summary
from .targets import label_and_runner_up, top_k

__all__ = ["main"]

_INTS = ("batch_size", "block_size", "num_workers", "length", "seed")
_FLAGS = ("compile", "retry_failed")
_TEXTS = {
    "attr": "module:name of an Attribution, or a dict of them, or what makes it",
    "model": "module:name of a model, or of what makes it",
    "method": "names of funcattr's methods, by commas (guided_backprop,deconvnet)",
    "data": "module:name of a data set or loader, or of what makes it",
    "targets": "0:100, or 3,7, or top:5, or label, or module:name",
    "store": "a directory or URL",
    "chunk_size": "a number, or auto",
    "dtype": "float32, float16 or float64",
    "reduce": "a function of funcattr's (channel_max_abs), or module:name",
    "output": "which part of the model's output: a key, or a place",
    "device": "where the model goes; cuda is the process's own under torchrun",
}
_METHODS = ("gradients", "relevance", "cams", "layers", "deep_lift")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line.

    Returns:
        0, or 1 where examples failed, or 2 where nothing could be done.
    """
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except FuncattrError as error:
        print(f"funcattr: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m funcattr", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="sweep | status | show")
    sweeps = commands.add_parser("sweep", help="a data set x targets into a store")
    sweeps.add_argument("config", nargs="?", help="a TOML file of the same names")
    for name, text in _TEXTS.items():
        sweeps.add_argument(_flag(name), help=text)
    for name in _INTS:
        sweeps.add_argument(_flag(name), type=int, help="as of funcattr.sweep_dataset")
    for name in _FLAGS:
        sweeps.add_argument(_flag(name), action="store_true", default=None)
    sweeps.add_argument("--no-resume", dest="resume", action="store_false", default=None)
    sweeps.add_argument("--dry-run", action="store_true", help="say what it would take")
    sweeps.set_defaults(run=_sweep)
    status = commands.add_parser("status", help="how far a store is, and what failed")
    status.add_argument("store")
    status.set_defaults(run=_status)
    shows = commands.add_parser("show", help="a picture of one map")
    shows.add_argument("store")
    shows.add_argument("--example", type=int, required=True)
    shows.add_argument("--target", type=int, required=True, help="a class, or a place")
    shows.add_argument("--array", help="one of several attributions")
    shows.add_argument("--out", help="a file (example3-target7.png)")
    shows.set_defaults(run=_show)
    return parser


def _sweep(options: argparse.Namespace) -> int:
    given = _config(options.config) if options.config else {}
    names = (*_TEXTS, *_INTS, *_FLAGS, "resume")
    given |= {n: getattr(options, n) for n in names if getattr(options, n) is not None}
    unknown = set(given) - set(names)
    if unknown:
        raise ArgumentError(
            f"the file has {', '.join(sorted(unknown))}; known: {', '.join(names)}."
        )
    for name in ("data", "targets", "store"):
        if name not in given:
            raise ArgumentError(f"a sweep needs {_flag(name)}.")
    how = {name: given[name] for name in (*_INTS, *_FLAGS, "resume", "dtype") if name in given}
    how["attr"], how["data"] = _attr(given), _made(given["data"])
    how["targets"], how["store"] = _targets(given["targets"]), given["store"]
    how["chunk_size"] = _number(given.get("chunk_size", "auto"))
    if "output" in given:
        how["output"] = _number(given["output"])
    if "reduce" in given:
        how["reduce"] = _named(given["reduce"], postprocess)
    rank, size = rank_and_size()
    if options.dry_run:
        print(estimate(prepared(Asked(**how))))
        return 0
    done = sweep_dataset(**how)
    print(f"rank {rank} of {size}: {done}" if size > 1 else done)
    return done.exit_status


def _status(options: argparse.Namespace) -> int:
    store = Store(options.store)
    found = summary(store)
    print(found)
    print(f"  {store.root.attrs['method']}")
    print(f"  {in_bytes(size_of(store.place))} on disk")
    left = list(store.left_over())
    if left:
        print(f"  {len(left)} files of writers that were killed, or are writing; the end tidies up")
    return found.exit_status


def _show(options: argparse.Namespace) -> int:
    store = Store(options.store)
    print(show(store, options.example, options.target, options.array, options.out))
    return 0


def _config(path: str) -> dict[str, Any]:
    try:
        tomllib: Any = importlib.import_module("tomllib")
        return dict(tomllib.loads(Path(path).read_text("utf-8")))
    except (OSError, ValueError, ImportError) as error:
        raise ArgumentError(f"{path} cannot be read as TOML: {error}") from error


def _attr(given: Mapping[str, Any]) -> Any:
    if "attr" in given:
        return _made(given["attr"])
    if "model" not in given or "method" not in given:
        raise ArgumentError("a sweep needs --attr, or --model and --method.")
    model = _made(given["model"])
    if "device" in given:
        device = given["device"]
        local = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if device == "cuda" else device
        model = model.to(torch.device(local))
    wanted = given["method"]
    if isinstance(wanted, Mapping):  # [method.cam] name = "grad_cam", layer = "features.stage4"
        many = {key: dict(value) for key, value in wanted.items()}
        for how in many.values():
            if "composite" in how:
                how["composite"] = _named(how["composite"], composites)
        return {key: _method(how.pop("name", key))(model, **how) for key, how in many.items()}
    each = {name: _method(name)(model) for name in str(wanted).split(",")}
    return each if len(each) > 1 else next(iter(each.values()))


def _method(name: str) -> Any:
    for room in _METHODS:
        module = importlib.import_module(f"{methods.__name__}.{room}")
        if name in module.__all__:
            return getattr(module, name)
    raise ArgumentError(f"funcattr has no method {name!r}; pass --attr module:name for your own.")


def _targets(given: Any) -> Any:
    if not isinstance(given, str):
        return [tuple(t) if isinstance(t, list) else t for t in given]
    if given == "label":
        return label_and_runner_up()
    begin, _, end = given.partition(":")
    if begin == "top" and end.isdigit():
        return top_k(int(end))
    if end.isdigit() and (begin.isdigit() or not begin):
        return range(int(begin or 0), int(end))
    parts = given.split(",")
    if all(part.strip().lstrip("-").isdigit() for part in parts):
        return [int(part) for part in parts]
    return _found(given)


def _number(text: Any) -> Any:
    return int(text) if isinstance(text, str) and text.isdigit() else text


def _named(name: str, room: Any) -> Any:
    if name not in room.__all__:
        return _found(name)
    return getattr(room, name)() if room is composites else getattr(room, name)


def _made(path: str) -> Any:
    """What is imported by its path, called where it is a function or class that makes it."""
    found = _found(path)
    ready = isinstance(found, (Attribution, nn.Module)) or hasattr(found, "__getitem__")
    return found() if callable(found) and (isinstance(found, type) or not ready) else found


def _found(path: str) -> Any:
    module, _, name = str(path).partition(":")
    if not name:
        raise ArgumentError(f"{path!r} is no import path, module:name.")
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ArgumentError(f"{path!r} cannot be imported: {error}.") from error
    return found


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
