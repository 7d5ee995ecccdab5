"""Whoever calls something wrongly is told so, in words that help, and nothing of theirs is changed.

The rows here, 472 in `wrong_calls`, `wrong_relevance`, `wrong_rules` and `wrong_targets`, do not
repeat the 115 of the files for one thing (`test_targets`, `test_sweep`, `test_sites`,
`test_layers`, `test_compose`, `test_composites`, and `test_compat_captum_errors`, where the words
are Captum's own).
"""

import re
from collections import deque

import pytest
import torch
import wrong_calls
import wrong_relevance
import wrong_rules
import wrong_targets
from conftest import VERSION, skip_without_halves
from helpers import assert_unchanged, snapshot
from wrong_calls import ATTR, CONV, IMAGES, NET, TARGET, X

import funcattr as fa


def in_an_explain(target):
    return ATTR.linearize(X)[1](target)


CALLS = {
    f"{module.__name__.removeprefix('wrong_')}: {table.lower()}: {name}": row
    for module in (wrong_calls, wrong_relevance, wrong_rules, wrong_targets)
    for table, rows in vars(module).items()
    if table.isupper() and isinstance(rows, dict) and table not in ("FORMS", "PARAMS")
    for name, row in rows.items()
}
for _name, (_target, _words) in wrong_targets.FORMS.items():
    CALLS[f"targets: forms: {_name}"] = (lambda t=_target: ATTR(X, target=t)), TARGET, _words
    CALLS[f"targets: explain: {_name}"] = (lambda t=_target: in_an_explain(t)), TARGET, _words

BUILTINS = {
    fa.ArgumentError: (ValueError, TypeError),
    fa.TargetError: (ValueError, IndexError),
    fa.LayerError: (ValueError, LookupError),
    fa.NoSiteError: (ValueError,),
}
# How torch, its transforms and its compiler begin where nobody has put it into words.
RAW = re.compile(
    r"vmap|mat1|from user code|TorchRuntimeError|InternalTorchDynamoError|Cannot access data|"
    r"Can't call|new\(\)|Dimension out of range|Function \w+Backward|unsupported operation|"
    r"Attempted to use an uninit|expected|Expected|Input and output sizes|save_for|'\w+' object|"
    r"unhashable|funcattr::|\w+\(\): argument|only one element|one of the variables"
)


def test_there_are_many():
    assert len(CALLS) >= 460


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")  # of torch 2.0
@pytest.mark.parametrize("name", CALLS)
def test_a_wrong_call(name):
    call, error, words = CALLS[name]
    if ": data, " in name:
        pytest.importorskip("zarr")
    if "float16" in name:
        skip_without_halves()
    if name.endswith(("compiled", "compiled before")) and VERSION < (2, 13):
        pytest.skip("this torch cannot compile funcattr")
    before = [snapshot(model) for model in (NET, CONV)]
    inputs = [(x, x.clone(), x._version) for x in (X, IMAGES)]
    with pytest.raises(error) as got:
        call()
    message = str(got.value)
    assert re.search(words, message, re.DOTALL), message
    assert not RAW.match(message), message
    assert all(isinstance(got.value, builtin) for builtin in BUILTINS.get(error, ()))
    for model, state in zip((NET, CONV), before):
        assert_unchanged(model, state)
    for x, values, version in inputs:
        assert torch.equal(x, values) and x._version == version
        assert not x.requires_grad and x.grad is None


def test_targets_that_have_no_slices():
    come = fa.sweep(ATTR, X, targets=deque([0, 1, 0]), chunk_size=2)
    assert torch.equal(come, fa.sweep(ATTR, X, targets=[0, 1, 0]))
