"""What is stored is what sweeps give, for every form of data, targets and attribution."""

import functools

import numpy as np
import pytest
import torch

pytest.importorskip("zarr")
import zarr
from dataset_cases import CLASSES, Pictures, Stream, attributions, model, swept
from torch.utils.data import DataLoader, Subset

import funcattr as fa
from funcattr.dataset import label_and_runner_up, top_k

DATA = Pictures(11)
XS = DATA.xs
LABELS = torch.arange(11) % CLASSES


def opened(store):
    return zarr.open_group(store, mode="r")


def expected(attr, targets=range(CLASSES), xs=XS, size=2, **options):
    """By sweeps of the same batches."""
    parts = [
        fa.sweep(attr, xs[i : i + size], targets=targets, **options).transpose(0, 1)
        for i in range(0, len(xs), size)
    ]
    return torch.cat(parts).numpy()


def test_what_is_stored(tmp_path):
    done = swept(tmp_path / "store", DATA)
    assert (done.done, done.missing, done.failed, done.complete) == (11, 0, [], True)
    assert str(done).startswith(
        f"{tmp_path / 'store'}: 11 of 11 examples done; 0 failed, 0 missing"
    )
    root = opened(tmp_path / "store")
    for name, attr in attributions().items():
        assert np.array_equal(root[name][:], expected(attr)), name
        assert root[name].metadata.dimension_names[:2] == ("example", "target")
    out = model()(XS).detach()
    assert np.allclose(root["score"][:], out.numpy(), atol=1e-6)
    assert np.array_equal(root["prediction"][:], out.argmax(1).numpy())
    assert np.array_equal(root["label"][:], LABELS.numpy())
    assert np.array_equal(root["target"][:], np.arange(CLASSES))
    assert (root["status"][:] == 1).all()
    assert root.attrs["method"].startswith("guided: ByGradient, Composite(relu: guided); cam: Grad")
    assert root["cam"].attrs["method"] == "GradCam at 1, Composite()"
    assert root.attrs["torch"] == str(torch.__version__)
    assert root.attrs["weights"].startswith("sha256:")


FORMS = {
    "inputs": lambda: XS,
    "a list of inputs": lambda: list(XS),
    "dicts": lambda: [{"input": x, "labels": i} for i, x in enumerate(XS)],
    "a loader": lambda: DataLoader(DATA, batch_size=2),
    "a loader with processes": lambda: DataLoader(DATA, batch_size=2, num_workers=1),
    "a loader of single examples": lambda: DataLoader(DATA, batch_size=None),
    "a part": lambda: Subset(Pictures(20), range(11)),
    "one after the other": lambda: Stream(DATA),
    "a loader of that": lambda: DataLoader(Stream(DATA), batch_size=2),
}
FORMS["a part"] = lambda: Subset(torch.cat([XS, XS]), range(11))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forms_of_data(tmp_path, form):
    attr = attributions()["guided"]
    length = 11 if "other" in form or "of that" in form else None
    done = swept(tmp_path, FORMS[form](), attr, length=length)
    assert done.done == 11
    assert np.array_equal(opened(tmp_path)["maps"][:], expected(attr))


def test_further_arguments_by_name(tmp_path):
    def scaled(x, scale):
        return model()(x) * scale[:, None]

    attr = fa.gradient(scaled)
    data = [{"x": x, "scale": float(i), "label": 0} for i, x in enumerate(XS)]
    swept(tmp_path, data, attr)
    factor = np.arange(11, dtype=np.float32).reshape(-1, 1, 1, 1, 1)
    plain = expected(fa.gradient(model()))
    assert np.allclose(opened(tmp_path)["maps"][:], plain * factor, atol=1e-5)


def runner_up(label, out):
    return torch.stack([label, (label + 1) % out.shape[1]], 1)


TARGETS = {
    "the top": (top_k(2), lambda out: out.topk(2, 1).indices),
    "a lambda": (lambda out: out.topk(2, 1).indices, lambda out: out.topk(2, 1).indices),
    "label and runner-up": (
        label_and_runner_up(),
        lambda out: torch.stack(
            [LABELS, (out - 1e9 * torch.nn.functional.one_hot(LABELS, CLASSES)).argmax(1)], 1
        ),
    ),
    "of the label": (runner_up, lambda out: runner_up(LABELS, out)),
    "of the input": (lambda x: [[0, 1]] * len(x), lambda out: torch.tensor([[0, 1]] * 11)),
}


@pytest.mark.parametrize("form", TARGETS)
@pytest.mark.parametrize("chunk_size", ["auto", 1])
def test_targets_by_a_function(tmp_path, form, chunk_size):
    attr, (given, oracle) = attributions()["guided"], TARGETS[form]
    swept(tmp_path, DATA, attr, targets=given, chunk_size=chunk_size)
    root, out = opened(tmp_path), model()(XS).detach()
    targets = oracle(out)
    assert np.array_equal(root["targets"][:], targets.numpy())
    assert np.allclose(root["score"][:], out.gather(1, targets).numpy(), atol=1e-6)
    for i in range(11):
        for t in range(2):
            one = attr(XS[i : i + 1], target=int(targets[i, t]))[0]
            assert np.allclose(root["maps"][i, t], one.numpy(), atol=1e-6)


def test_targets_of_several_dims_and_of_none(tmp_path):
    def grid(x):
        return x.flatten(1)[:, :12].reshape(-1, 3, 4) ** 2

    places = [(0, 1), (2, -1)]
    swept(tmp_path / "grid", DATA, fa.gradient(grid), targets=places)
    root = opened(tmp_path / "grid")
    assert np.allclose(root["maps"][:], expected(fa.gradient(grid), places))
    assert np.array_equal(root["score"][:, 1], grid(XS)[:, 2, -1].numpy())
    assert root["target"][:].tolist() == [[0, 1], [2, -1]]
    swept(tmp_path / "sum", DATA, fa.gradient(lambda x: x.square().sum((1, 2, 3))), targets=None)
    assert np.allclose(opened(tmp_path / "sum")["maps"][:, 0], 2 * XS.numpy())


def test_what_maps_are_like(tmp_path):
    attr = attributions()["guided"]
    for name, options in {
        "half": {"dtype": "float16"},
        "reduced": {"reduce": fa.channel_max_abs},
        "a number": {"reduce": lambda m: m.abs().sum((1, 2, 3))},
    }.items():
        swept(tmp_path / name, DATA, attr, **options)
        assert (tmp_path / name / "zarr.json").exists()
    plain = expected(attr)
    half = opened(tmp_path / "half")["maps"]
    assert half.dtype == np.float16 and np.array_equal(half[:], plain.astype(np.float16))
    reduced = opened(tmp_path / "reduced")["maps"][:]
    assert np.array_equal(reduced, np.abs(plain).max(2, keepdims=True))
    assert opened(tmp_path / "a number")["maps"].shape == (11, CLASSES)


def test_several_maps_and_outputs_of_other_kinds(tmp_path):
    net = model()

    def two(x, y):
        return {"logits": net(x) * net(y).sum(1, keepdim=True), "more": None}

    data = [{"x": x, "y": x.flip(0)} for x in XS]
    wrapped = fa.gradient(lambda x, y=None: two(x, y), argnums=0)
    swept(tmp_path / "a", data, wrapped, output="logits")
    whole = fa.gradient(lambda x: two(x, x.flip(1))["logits"] * 1)
    assert opened(tmp_path / "a")["maps"].shape == (11, CLASSES, 2, 5, 5)
    both = fa.layer_gradient_x_activation(net, ["0", "1"])
    smooth = fa.smooth_grad(whole, samples=2, sigma=0.1)
    swept(tmp_path / "b", XS, {"layers": both, "smooth": smooth})
    root = opened(tmp_path / "b")
    assert set(root.array_keys()) >= {"layers_0", "layers_1", "smooth"}
    first = fa.sweep(both, XS[:2], targets=range(CLASSES))
    assert np.allclose(root["layers_1"][:2], first[1].transpose(0, 1).numpy(), atol=1e-6)


def test_random_methods_depend_on_the_example_alone(tmp_path):
    attr = fa.smooth_grad(attributions()["guided"], samples=2, sigma=0.3)
    before = torch.get_rng_state()
    swept(tmp_path / "all", DATA, attr)
    assert torch.equal(torch.get_rng_state(), before)
    swept(tmp_path / "first", DATA, attr, length=4)
    swept(tmp_path / "other", DATA, attr, seed=1)
    whole = opened(tmp_path / "all")["maps"]
    assert np.array_equal(whole[:4], opened(tmp_path / "first")["maps"][:])
    assert not np.array_equal(whole[:4], opened(tmp_path / "other")["maps"][:4])


@pytest.mark.parametrize("layout", [{"block_size": 4}, {"block_size": 22}, {"compressor": None}])
def test_the_layout_changes_no_value(tmp_path, layout):
    swept(tmp_path, DATA, **layout)
    root = opened(tmp_path)
    assert np.array_equal(root["guided"][:], expected(attributions()["guided"]))


def test_xarray_opens_it(tmp_path):
    xarray = pytest.importorskip("xarray")
    swept(tmp_path, DATA)
    with xarray.open_zarr(tmp_path, chunks=None) as found:
        assert found.guided.dims == ("example", "target", "channel", "y", "x")
        assert found.cam.dims[2:] == ("channel_of_cam", "y_of_cam", "x_of_cam")
        chosen = found.guided.sel(target=3).mean("channel")
        assert np.allclose(chosen, expected(attributions()["guided"])[:, 3].mean(1))
        assert found.status.attrs["flag_meanings"].split()[1] == "done"
    if pytest.importorskip("dask"):
        lazy = xarray.open_zarr(tmp_path)
        assert lazy.guided.chunks is not None
        lazy.close()


def test_a_store_object_of_zarr(tmp_path):
    place = zarr.storage.MemoryStore()
    assert swept(place, DATA).computed == 11
    assert swept(place, DATA).computed == 0
    assert np.array_equal(opened(place)["guided"][:], expected(attributions()["guided"]))


@pytest.mark.compiled
def test_compiled(tmp_path, monkeypatch):
    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    attr = fa.guided_backprop(
        torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(50, CLASSES), torch.nn.ReLU())
    )
    swept(tmp_path, XS[:4], attr, compile=True, chunk_size=3)
    assert attr.compiled
    assert np.allclose(opened(tmp_path)["maps"][:], expected(attr, xs=XS[:4]), atol=1e-6)
    torch.compiler.reset()
