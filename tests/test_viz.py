"""What is drawn: the numbers, limits, colours and labels of matplotlib's artists."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import funcattr as fa
from funcattr import viz

matplotlib = pytest.importorskip("matplotlib", reason="pictures need matplotlib")
scipy_stats = pytest.importorskip("scipy.stats")

MAP = torch.tensor([[[1.0, -4.0], [0.0, 2.0]], [[1.0, 1.0], [0.0, -2.0]]])  # [2, 2, 2]
SUM = np.array([[2.0, -3.0], [0.0, 0.0]])


def drawn(image):
    return np.asarray(image.get_array())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("lead", [(), (1,), (1, 1)])
def test_overlay_draws_the_sum_of_the_channels_on_a_symmetric_scale(dtype, lead):
    map_ = MAP.reshape(*lead, 2, 2, 2).to(dtype).requires_grad_()
    ax = viz.overlay(map_, clip=100, title="cat", label="relevance")
    (image,) = ax.images
    assert np.array_equal(drawn(image), SUM)
    assert image.get_clim() == (-3, 3)
    assert image.get_cmap().name == "RdBu_r"
    assert ax.get_title() == "cat"
    assert ax.figure.axes[1].get_ylabel() == "relevance"
    red, _, blue, _ = image.to_rgba(np.array([[3.0]]))[0, 0]
    assert red > blue  # what speaks for the target
    assert map_.grad is None and map_.requires_grad


def test_unsigned_maps_have_sequential_colours():
    ax = viz.overlay(MAP, channels="max_abs", clip=100)
    assert np.array_equal(drawn(ax.images[0]), [[1, 4], [0, 2]])
    assert ax.images[0].get_clim() == (0, 4)
    assert ax.images[0].get_cmap().name == "viridis"
    signed = viz.overlay(MAP.abs(), signed=True, cmap="PuOr").images[0]
    assert signed.get_clim()[0] < 0 and signed.get_cmap().name == "PuOr"


def test_colours_end_at_the_percentile_and_the_bar_says_so():
    map_ = torch.arange(1, 1001.0).reshape(25, 40)
    image = viz.overlay(map_, clip=90).images[0]
    assert image.get_clim()[1] == pytest.approx(np.percentile(map_.numpy(), 90))
    assert image.colorbar.extend == "max"
    assert viz.overlay(-map_, clip=90).images[0].colorbar.extend == "both"
    assert viz.overlay(map_, clip=100).images[0].colorbar.extend == "neither"
    one = torch.zeros(40, 40)
    one[3, 4] = -7.0  # beyond the percentile of zeros
    assert viz.overlay(one).images[0].get_clim() == (-7, 7)
    assert viz.overlay(torch.zeros(4, 4)).images[0].get_clim() == (0, 1)


def test_the_picture_is_grey_below_and_a_coarse_map_covers_it():
    picture = torch.zeros(1, 3, 8, 6)
    picture[:, 0] = 1.0
    ax = viz.overlay(torch.tensor([[0.0, 0.25], [1.0, 0.5]]), picture, clip=100, colorbar=False)
    under, image = ax.images
    assert np.allclose(drawn(under), 0.299) and under.get_cmap().name == "gray"
    assert under.get_extent() == list(image.get_extent()) == [-0.5, 5.5, 7.5, -0.5]
    assert np.allclose(image.get_alpha(), [[0, 0.5], [1, 0.5**0.5]])
    assert len(ax.figure.axes) == 1
    assert viz.overlay(torch.ones(2, 2), picture, alpha=0.3).images[1].get_alpha() == 0.3


@pytest.mark.parametrize(
    "picture",
    [
        torch.full((3, 4, 5), 0.5),
        np.full((4, 5, 3), 0.5),
        torch.full((4, 5, 3), 0.5),
        np.full((3, 4, 5), 0.5),
        np.full((4, 5, 4), 0.5),
        torch.full((1, 1, 4, 5), 0.5),
        torch.full((4, 5), 0.5),
        (np.full((4, 5, 3), 127.5)).astype(np.uint8),
    ],
)
def test_forms_of_pictures(picture):
    ax = viz.overlay(torch.ones(4, 5), picture)
    assert np.allclose(drawn(ax.images[0]), 0.5, atol=0.01)
    assert drawn(ax.images[0]).shape == (4, 5)


def test_what_a_network_takes_is_stretched_to_a_picture():
    x = torch.linspace(-1, 3, 48).reshape(1, 3, 4, 4)
    grey = drawn(viz.overlay(torch.ones(4, 4), x).images[0])
    assert 0 <= grey.min() < grey.max() <= 1
    assert np.all(np.diff(grey.ravel()) > 0)


def test_grid_has_a_row_per_target_and_a_column_per_method():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
    x = torch.rand(1, 3, 8, 8)
    both = fa.sweep(fa.bundle(fa.gradient(model), fa.saliency(model)), x, targets=[1, 3])
    maps = dict(zip(["gradient", "saliency"], both))
    figure = viz.grid(maps, ["cat", "dog"], x, clip=100)
    axes = np.array(figure.axes).reshape(2, 3)
    assert [ax.get_title() for ax in axes[0]] == ["input", "gradient", "saliency"]
    assert [ax.get_ylabel() for ax in axes[:, 0]] == ["cat", "dog"]
    assert np.allclose(drawn(axes[0, 0].images[0]), x[0].permute(1, 2, 0))
    for column, name in enumerate(maps, 1):
        for row in range(2):
            array = maps[name][row, 0].sum(0).double().numpy()
            (image,) = axes[row, column].images
            assert np.allclose(drawn(image), array)
            assert image.get_clim()[1] == pytest.approx(np.abs(array).max())
    assert axes[1, 1].get_xlabel().startswith("±") and axes[1, 2].get_xlabel().startswith("0 to")
    shared = np.array(viz.grid(maps, same_scale=True, clip=100).axes).reshape(2, 2)
    assert shared[0, 0].images[0].get_clim() == shared[1, 0].images[0].get_clim()
    over = viz.grid(maps, picture=[x, x], over=True).axes
    assert len(over[1].images) == 2


def test_compare_draws_both_and_their_difference():
    a, b = MAP, MAP.flip(1)
    figure = viz.compare(a, b, labels=("one", "other"), clip=100, same_scale=True)
    images = [ax.images[0] for ax in figure.axes[:3]]
    assert np.array_equal(drawn(images[2]), drawn(images[0]) - drawn(images[1]))
    assert [ax.get_title() for ax in figure.axes[:2]] == ["one", "other"]
    expected = scipy_stats.spearmanr(SUM.ravel(), SUM[::-1].ravel()).statistic
    assert figure.axes[2].get_title() == f"difference\nrank correlation {expected:.2f}"
    twice = viz.compare(a, 2 * b, clip=100).axes  # each by its own scale
    assert np.allclose(drawn(twice[2].images[0]), drawn(images[2]) / 3)
    assert "constant" in viz.compare(a, torch.ones(2, 2)).axes[2].get_title()


def test_rank_correlation_is_spearmans():
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = rng.integers(0, 6, (2, 40)).astype(float)  # with many ties
        ours = viz.rank_correlation(torch.tensor(a), b)
        assert ours == pytest.approx(scipy_stats.spearmanr(a, b).statistic, abs=1e-12)
    assert np.isnan(viz.rank_correlation(np.ones(3), np.arange(3)))


def test_a_signal_is_a_line_before_its_map():
    map_, x = torch.randn(1, 50), torch.randn(1, 50)
    ax = viz.signal(map_, x, rate=25, clip=100)
    assert np.allclose(drawn(ax.images[0]), map_)
    assert ax.images[0].get_extent()[:2] == [-0.02, 1.98]
    assert np.allclose(ax.lines[-1].get_xydata()[:, 0], np.arange(50) / 25)
    assert np.allclose(ax.lines[-1].get_xydata()[:, 1], x[0])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("time in s", "signal")
    lanes = viz.signal(torch.randn(3, 50), torch.randn(3, 50), names=["I", "II", "V"])
    assert [t.get_text() for t in lanes.get_yticklabels()] == ["I", "II", "V"]
    assert len(lanes.images) == 3 and lanes.get_xlabel() == "sample"
    low, high = zip(*(line.get_ydata()[[0, -1]] for line in lanes.lines[1::2]))
    assert all(i - 0.48 <= y <= i + 0.48 for i, pair in enumerate(zip(low, high)) for y in pair)
    assert lanes.yaxis_inverted()
    viz.signal(torch.zeros(4), torch.zeros(4))  # a flat line


def test_a_lane_shows_what_is_up_as_up():
    ramp = torch.arange(10.0).repeat(2, 1)
    ax = viz.signal(ramp, ramp)
    top = ax.transData.transform(ax.lines[1].get_xydata())
    assert top[-1, 1] > top[0, 1]


def test_a_spectrogram_has_low_frequencies_below():
    map_ = torch.randn(1, 1, 10, 20)
    ax = viz.spectrogram(map_, map_.abs(), duration=2, frequencies=torch.arange(10) * 100.0)
    under, image = ax.images
    assert image.origin == "lower" and list(image.get_extent()) == [0, 2, -0.5, 9.5]
    assert np.allclose(drawn(image), map_[0, 0]) and np.allclose(drawn(under), map_[0, 0].abs())
    assert ax.get_yticklabels()[-1].get_text() == "900"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("time in s", "frequency in Hz")


def test_tokens_stand_on_their_colours():
    words = ["[CLS]", "cat", "##s", "$5$", "<b>", "x" * 30]
    ax = viz.tokens(words, torch.tensor([[0.0, 2.0, -2.0, 1.0, 0.0, 0.0]]), width=40, title="t")
    assert [text.get_text() for text in ax.texts] == words
    faces = [patch.get_facecolor()[:3] for patch in ax.patches]
    assert faces[0] == (1, 1, 1)
    assert faces[1][0] > faces[1][2] and faces[2][2] > faces[2][0]
    lines = {text.get_position()[1] for text in ax.texts}
    assert lines == {0, 1}
    ax.figure.draw_without_rendering()  # "$5$" is no formula
    for text, patch in zip(ax.texts, ax.patches):
        inside, box = text.get_window_extent(), patch.get_window_extent()
        assert box.x0 <= inside.x0 and inside.x1 <= box.x1, text


def test_tokens_as_html():
    page = viz.tokens_html(["a", "<b>", "c&"], [0.0, 4.0, -4.0])
    assert page._repr_html_() == page
    assert "&lt;b&gt;" in page and "<b>" not in page and "c&amp;" in page
    assert 'title="4"' in page and "rgb(239, 138, 98)" in page and "rgb(255, 255, 255)" in page


def test_axes_of_the_users_are_drawn_into():
    from matplotlib.figure import Figure

    ax = Figure().subplots()
    for draw in (
        lambda: viz.overlay(MAP, ax=ax),
        lambda: viz.signal([1.0, 2.0], [1.0, 2.0], ax=ax),
        lambda: viz.spectrogram(MAP[:1], ax=ax),
        lambda: viz.tokens(["a"], [1.0], ax=ax),
    ):
        assert draw() is ax


@pytest.mark.parametrize("name", ["a.png", "deep/er/a.pdf", "a.svg"])
def test_save(tmp_path, name):
    ax = viz.overlay(MAP)
    for what in (ax, ax.figure):
        path = viz.save(what, tmp_path / name)
        assert path == tmp_path / name and path.stat().st_size > 1000


def test_save_of_html(tmp_path):
    path = viz.save(viz.tokens_html(["ä"], [1.0]), tmp_path / "a.html")
    assert "ä" in path.read_text("utf-8")
    with pytest.raises(fa.ArgumentError, match="html"):
        viz.save(viz.tokens_html(["a"], [1.0]), tmp_path / "a.png")


ONES = torch.ones(2, 2)
BAD = {
    "NaN": (lambda: viz.overlay(ONES * float("nan")), "4 of 4 numbers that are NaN"),
    "complex": (lambda: viz.overlay(ONES * 1j), r"map\.abs\(\)"),
    "bool": (lambda: viz.overlay(ONES > 0), r"map\.float\(\)"),
    "meta": (lambda: viz.overlay(ONES.to("meta")), "no numbers"),
    "empty": (lambda: viz.overlay(ONES[:0]), "empty"),
    "batch": (lambda: viz.overlay(torch.ones(3, 3, 4, 4)), r"map\[0\]"),
    "volume": (lambda: viz.overlay(torch.ones(1, 2, 4, 4, 4)), "slice of a volume"),
    "signal": (lambda: viz.overlay(torch.ones(5)), r"viz\.signal"),
    "no map": (lambda: viz.overlay(None), "got None"),
    "text": (lambda: viz.overlay("cat"), "real numbers"),
    "ragged": (lambda: viz.overlay([[1.0], [1.0, 2.0]]), "tensor or an array"),
    "channels": (lambda: viz.overlay(MAP, channels="mean"), "'sum' or 'max_abs'"),
    "clip": (lambda: viz.overlay(MAP, clip=0), "percentile"),
    "alpha": (lambda: viz.overlay(MAP, alpha=2), "alpha"),
    "ax": (lambda: viz.overlay(MAP, ax=3), "matplotlib Axes"),
    "unsigned": (lambda: viz.overlay(MAP, signed=False), "negative"),
    "picture": (lambda: viz.overlay(ONES, torch.ones(2, 3, 4, 4)), "one picture"),
    "7 channels": (lambda: viz.overlay(ONES, torch.ones(7, 9, 8)), "one picture"),
    "no mapping": (lambda: viz.grid(MAP), "mapping"),
    "rows": (lambda: viz.grid({"a": MAP, "b": MAP[:1]}), "a map for each target"),
    "names": (lambda: viz.grid({"a": MAP}, ["x"]), "1 targets"),
    "one number": (
        lambda: viz.grid({"a": torch.tensor(1.0)}),
        r"'a' are several maps, .*tensor\(1",
    ),
    "one number in an array": (lambda: viz.grid({"a": np.array(1.0)}), "'a' are several maps"),
    "no maps": (lambda: viz.grid({"a": []}), "no maps of 'a'"),
    "pictures": (lambda: viz.grid({"a": MAP}, picture=[ONES]), "one per row"),
    "sizes": (lambda: viz.compare(ONES, torch.ones(3, 2)), "interpolate"),
    "shapes": (lambda: viz.rank_correlation(ONES, ONES[0]), "one shape"),
    "lengths": (lambda: viz.signal([1.0], [1.0, 2.0]), "shape"),
    "rate": (lambda: viz.signal([1.0], [1.0], rate=0), "samples per second"),
    "channel names": (lambda: viz.signal(ONES, ONES, names=["a"]), "each channel"),
    "signals": (lambda: viz.signal(torch.ones(2, 3, 4), 1), r"map\[0\]"),
    "spectrogram": (lambda: viz.spectrogram(ONES, torch.ones(3, 3)), "spectrogram"),
    "bins": (lambda: viz.spectrogram(ONES, frequencies=[1.0]), "each bin"),
    "words": (lambda: viz.tokens("cat", [1.0, 2.0, 3.0]), "list of words"),
    "scores": (lambda: viz.tokens(["cat"], [1.0, 2.0]), "1 words and 2 scores"),
    "embeddings": (lambda: viz.tokens(["cat", "s"], ONES), "one number each"),
    "width": (lambda: viz.tokens(["cat"], [1.0], width=0), "characters"),
    "suffix": (lambda: viz.save(viz.overlay(MAP), "map.xyz"), "png"),
    "nothing": (lambda: viz.save(3, "map.png"), "figure, axes"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_drawn(name):
    call, message = BAD[name]
    with pytest.raises(fa.ArgumentError, match=message):
        call()


def test_inside_of_a_transform_there_is_nothing_to_draw():
    with pytest.raises(fa.ArgumentError, match="return the map"):
        torch.vmap(lambda m: viz.overlay(m) and m)(MAP)


def test_long_maps_and_many_figures_bring_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        viz.signal(torch.randn(100_000), torch.randn(100_000)).figure.draw_without_rendering()


def test_matplotlib_is_imported_at_first_use_and_asked_for_by_name():
    code = """
import sys, funcattr as fa
assert "matplotlib" not in sys.modules
sys.modules["matplotlib"] = sys.modules["matplotlib.pyplot"] = None
try:
    fa.viz.overlay([[1.0]])
except fa.ArgumentError as error:
    assert "funcattr[viz]" in str(error)
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", code], check=True)
