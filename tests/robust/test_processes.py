"""Attributions in other processes, and as files and copies: the same maps, bit for bit."""

import copy
import functools
import importlib.util
import io
import pickle
from concurrent.futures import ProcessPoolExecutor

import pytest
import torch
import workers
from helpers import assert_unchanged, snapshot, tiny, tiny_input
from torch.utils._pytree import tree_flatten
from torch.utils.data import DataLoader

import funcattr as fa

X = tiny_input()
ATTRIBUTIONS = workers.attributions()
# Python 3.12 warns of every fork in a process that has threads, and those that torch starts count.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def same(came, expected):
    came, expected = tree_flatten(came)[0], tree_flatten(expected)[0]
    return len(came) == len(expected) > 0 and all(map(torch.equal, came, expected))


def through_a_file(value):
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
    "the first protocol that knows classes": lambda value: pickle.loads(pickle.dumps(value, 2)),
    "torch.save": through_a_file,
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
}


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("name", ATTRIBUTIONS)
def test_copies(name, how):
    attr = ATTRIBUTIONS[name]
    expected = attr(X, target=1), attr(X, target=workers.picked)
    other = COPIES[how](attr)
    assert same((other(X, target=1), other(X, target=workers.picked)), expected)
    again = COPIES[how](other)  # after it was used
    assert same(again(X, target=1), expected[0])
    assert same(fa.sweep(other, X, targets=[1, 2]), fa.sweep(attr, X, targets=[1, 2]))


@pytest.mark.parametrize("how", ["pickle", "torch.save", "deepcopy"])
def test_a_copy_has_a_model_of_its_own(how):
    model = tiny()
    attr = fa.guided_backprop(model)
    other = COPIES[how](attr)
    expected = other(X, target=1)
    with torch.no_grad():
        model.head.weight.zero_()
    assert torch.equal(other(X, target=1), expected)
    assert not attr(X, target=1).any()


def test_what_has_no_name_is_copied_all_the_same_where_that_can_be():
    model = tiny()
    attr = fa.rule_backprop(model, lambda x, g: 2 * g * (x > 0))
    assert same(copy.deepcopy(attr)(X, target=1), attr(X, target=1))
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        pickle.dumps(attr)


@pytest.mark.skipif(not importlib.util.find_spec("cloudpickle"), reason="no cloudpickle")
def test_cloudpickle():
    import cloudpickle

    attr = fa.rule_backprop(tiny(), lambda x, g: 2 * g * (x > 0))
    other = pickle.loads(cloudpickle.dumps(attr))
    assert same(other(X, target=1), attr(X, target=1))


@pytest.mark.compiled
def test_compiled_code_is_left_behind(monkeypatch):
    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    attr = fa.guided_backprop(torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU()))
    x = torch.ones(2, 3)
    expected = fa.sweep(attr, x, targets=range(4), compile=True)
    assert attr.compiled
    for how in ("pickle", "torch.save", "deepcopy"):
        other = COPIES[how](attr)
        assert not other.compiled
        assert same(other(x, target=1), attr(x, target=1))
    assert torch.equal(fa.sweep(attr, x, targets=range(4), compile=True), expected)
    torch.compiler.reset()


@pytest.fixture(scope="module", params=["fork", "spawn"])
def pool(request):
    if request.param not in torch.multiprocessing.get_all_start_methods():
        pytest.skip(f"no {request.param} here")
    fa.guided_backprop(tiny())(X, target=1)  # a fork inherits what a first call sets up
    context = torch.multiprocessing.get_context(request.param)
    with ProcessPoolExecutor(2, mp_context=context, initializer=workers.start) as pool:
        yield pool


def test_sent_as_they_are(pool):
    expected = {name: attr(X, target=1) for name, attr in ATTRIBUTIONS.items()}
    models = {name: attr(X, target=1) for name, attr in workers.attributions().items()}
    assert all(same(models[name], expected[name]) for name in expected)
    sent = {n: pool.submit(workers.maps, a, X, 1) for n, a in workers.attributions().items()}
    assert [n for n, s in sent.items() if not same(s.result(), expected[n])] == []


def test_sent_as_bytes_and_as_files(pool, tmp_path):
    sent = {}
    for name, attr in ATTRIBUTIONS.items():
        path = tmp_path / f"{len(sent)}.pt"
        torch.save(attr, path)
        sent[name] = [
            pool.submit(workers.by_bytes, pickle.dumps(attr), X, 1),
            pool.submit(workers.by_file, path, X, 1),
        ]
    for name, futures in sent.items():
        expected = ATTRIBUTIONS[name](X, target=1)
        assert all(same(future.result(), expected) for future in futures), name


def test_made_there(pool):
    """The same seeds make the same models, so what differs would be the process."""
    names = list(ATTRIBUTIONS)
    sent = [pool.submit(workers.from_scratch, name, X, [2, 0]) for name in names]
    for name, future in zip(names, sent):
        assert same(future.result(), ATTRIBUTIONS[name](X, target=[2, 0])), name


def test_sweeps_in_processes(pool):
    attr = workers.attributions()["a bundle"]
    model = attr.method.attrs[0].method.ruled.func
    before = snapshot(model)
    sent = [pool.submit(workers.swept, attr, X, size) for size in (1, 3, None)]
    for size, future in zip((1, 3, None), sent):
        assert same(future.result(), fa.sweep(attr, X, targets=range(4), chunk_size=size))
    assert_unchanged(model, before)


def test_nothing_is_left_behind_there(pool):
    attrs = [workers.attributions()[n] for n in ("guided_grad_cam", "a composite", "many")]
    assert [pool.submit(workers.state, attr).result() for attr in attrs] == [(True, True)] * 3


@pytest.mark.parametrize("how", ["fork", "spawn"])
def test_loaders_of_data(how):
    attr = fa.guided_backprop(tiny())
    xs = tiny_input(batch=4)
    loader = DataLoader(
        workers.Maps(attr, xs), batch_size=2, num_workers=1, multiprocessing_context=how
    )
    maps = torch.cat(list(loader))
    assert torch.equal(maps, torch.cat([attr(x[None], target=1) for x in xs]))


def test_a_fork_in_the_middle_of_a_stream():
    """What was linearized before a fork goes on in both processes."""
    context = torch.multiprocessing.get_context("fork")
    attr = fa.guided_backprop(tiny())
    _, explain = attr.linearize(X)
    expected = [explain(t) for t in range(4)]
    receive, send = context.Pipe(duplex=False)

    def child():
        workers.start()
        send.send_bytes(pickle.dumps([explain(t).numpy() for t in range(4)]))

    process = context.Process(target=child)
    process.start()
    came = pickle.loads(receive.recv_bytes()) if receive.poll(60) else None
    process.join(60)
    assert process.exitcode == 0
    assert same([torch.from_numpy(m) for m in came], expected)
    assert same([explain(t) for t in range(4)], expected)
