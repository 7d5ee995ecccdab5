"""The public surface: its names, its docstrings, and what importing it brings in."""

import inspect
import subprocess
import sys
import typing

import pytest

import funcattr as fa

NAMES = {
    "ArgumentError", "Attribution", "Composite", "FuncattrError", "LayerError", "NoSiteError",
    "TargetError",
    "bundle", "channel_max_abs", "composites", "conserved", "deconvnet", "deep_lift", "first",
    "gaussian_smooth", "grad_cam", "gradient",
    "guided_backprop", "guided_grad_cam", "input_x_gradient",
    "integrated_gradients", "interpolate", "layer_gradient_x_activation", "layer_output",
    "lrp", "make_functional", "over_embeddings", "rect_grad",
    "relu_rule", "rule_backprop", "rules", "saliency",
    "sites",
    "smooth_grad", "stream", "sweep", "sweep_dataset", "viz", "with_rules",
}  # fmt: skip
FUNCTIONS = sorted(n for n in NAMES if inspect.isfunction(getattr(fa, n)))
PAPERS = {
    "gradient", "saliency", "input_x_gradient", "guided_backprop", "deconvnet", "grad_cam",
    "guided_grad_cam", "layer_gradient_x_activation", "smooth_grad", "integrated_gradients",
    "lrp", "deep_lift", "rect_grad",
}  # fmt: skip
BRIEF = {"saliency", "input_x_gradient", "guided_backprop", "deconvnet"}  # refer to gradient


def test_names():
    assert set(fa.__all__) == NAMES
    assert all(hasattr(fa, name) for name in NAMES)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_docstrings(name):
    text = inspect.getdoc(getattr(fa, name))
    assert ">>> " in text
    assert "Returns" in text
    if name in PAPERS:
        assert '"' in text and "(20" in text  # the source
    if name not in BRIEF:
        assert "Args:" in text
    if name not in {"sites"}:
        assert "Raises" in text


PUBLIC = {
    f"{space.__name__}.{name}": getattr(space, name)
    for space in (fa, fa.rules, fa.composites, fa.viz, fa.errors)
    for name in getattr(space, "__all__", ["NoMatchError", "HiddenSiteError"])
}
PLAIN = {"Plain", "NoMatchError", "HiddenSiteError"}  # a base, and what NoSiteError shows


@pytest.mark.parametrize("name", [n for n, o in PUBLIC.items() if not inspect.ismodule(o)])
def test_every_public_name_says_what_it_is(name):
    thing, last = PUBLIC[name], name.rpartition(".")[2]
    alias = typing.get_origin(thing) is not None  # a class, before Python 3.11
    if alias or (not inspect.isclass(thing) and not inspect.isfunction(thing)):
        return  # a type or a value, which the reference describes
    text = inspect.getdoc(thing)
    assert text and text[0] != " "
    if last not in PLAIN:
        assert ">>> " in text, "an example that runs"
    if inspect.isfunction(thing):
        assert "Returns" in text
        takes = inspect.signature(thing).parameters
        named = [n for n, p in takes.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        for one in named:
            assert f"    {one}: " in text or f"``{one}``" in text or "Args, " in text, one


def test_importing_brings_in_torch_and_the_standard_library_only():
    code = """
import sys, torch, numpy
before = set(sys.modules)
import funcattr
new = {name.split(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)
late = {"torch", "sympy", "mpmath"}  # what torch before 2.8 imports when it is asked for more
assert new - late == {"funcattr"}, new
assert "torch._dynamo" not in set(sys.modules) - before
"""
    subprocess.run([sys.executable, "-c", code], check=True)
