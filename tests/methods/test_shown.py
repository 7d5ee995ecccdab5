"""What is seen of attributions and reports in a terminal and in a notebook."""

import re
from html.parser import HTMLParser

import pytest
import torch
from torch import nn

import funcattr as fa


class Net(nn.Sequential):
    pass


def net():
    return Net(nn.Linear(3, 4), nn.ReLU(), nn.Unflatten(1, (4, 1)), nn.Flatten(), nn.Linear(4, 2))


def leaky(x, g):
    return g


MODEL = net()
FUNCTION = fa.make_functional(MODEL)[0]
SHOWN = {
    "gradient": (lambda: fa.gradient(MODEL), "gradient of Net"),
    "functional": (lambda: fa.saliency(FUNCTION, 1), "saliency of Net"),
    "function": (lambda: fa.input_x_gradient(leaky), "input_x_gradient of leaky"),
    "part": (lambda: fa.gradient(MODEL, output="logits"), "gradient of Net ['logits']"),
    "guided": (lambda: fa.guided_backprop(MODEL), "guided_backprop of Net; relu: guided"),
    "deconvnet": (
        lambda: fa.deconvnet(MODEL, sites=("relu", "gelu")),
        "deconvnet of Net; relu: deconvnet, gelu: deconvnet",
    ),
    "own rule": (lambda: fa.rule_backprop(MODEL, leaky), "rule_backprop of Net; relu: leaky"),
    "cam": (lambda: fa.grad_cam(MODEL, "1"), "grad_cam of Net; at '1'"),
    "module": (
        lambda: fa.guided_grad_cam(MODEL, MODEL[1]),
        "guided_grad_cam of Net; relu: guided; at '1'",
    ),
    "layers": (
        lambda: fa.layer_gradient_x_activation(MODEL, ["0", "1"], attribute_to_layer_input=True),
        "layer_gradient_x_activation of Net; at what goes into '0', '1'",
    ),
    "neuron": (
        lambda: fa.gradient(fa.layer_output(MODEL, "1")),
        "gradient of Net up to '1'",
    ),
    "lrp": (
        lambda: fa.lrp(MODEL, fa.Composite([(nn.Linear, fa.rules.epsilon())])),
        "lrp of Net; Linear: epsilon",
    ),
    "deep_lift": (lambda: fa.deep_lift(MODEL), "deep_lift of Net"),
    "rect_grad": (lambda: fa.rect_grad(MODEL, 98), "rect_grad of Net; relu: rectified"),
    "smooth": (
        lambda: fa.smooth_grad(fa.gradient(MODEL), samples=4, sigma=0.1),
        "smooth_grad of <gradient of Net>; 4 samples, sigma 0.1",
    ),
    "integrated": (
        lambda: fa.integrated_gradients(MODEL, steps=5),
        "integrated_gradients of <gradient of Net>; 5 steps",
    ),
    "bundle": (
        lambda: fa.bundle(fa.gradient(MODEL), fa.saliency(MODEL)),
        "bundle of <gradient of Net>, <saliency of Net>",
    ),
    "own": (lambda: fa.Attribution(leaky), "Attribution by leaky"),
}


@pytest.mark.parametrize("name", SHOWN)
def test_an_attribution_says_what_it_is(name):
    make, text = SHOWN[name]
    assert repr(make()) == f"<{text}>"


def test_long_composites_are_cut():
    rows = [(name, fa.rules.guided) for name in ("relu", "gelu", "silu", "tanh", "elu")]
    composite = fa.Composite(rows * 3)
    assert repr(fa.lrp(MODEL, composite)).endswith("and 7 more>")


def test_a_repr_outlives_changes_of_the_model():
    model = net()
    attr = fa.grad_cam(model, model[1])
    model[1] = nn.GELU()
    assert repr(attr) == "<grad_cam of Net; at ReLU>"


class Table(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.cells, self.open = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        if tag == "tr":
            self.cells.append([])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1] in ("td", "th"):
            self.cells[-1].append(data)


def test_the_report_is_a_table_in_a_notebook_too():
    def odd(x, g):
        return g

    odd.__name__ = "<b>"
    report = fa.sites(fa.relu_rule(MODEL, odd), torch.ones(1, 3))
    table = Table(report._repr_html_())
    assert not table.open
    printed = [re.split(r"  +", line.strip()) for line in str(report).splitlines()[:-1]]
    assert table.cells == printed
    assert table.cells[1][-1] == "<b>"
    assert str(report).splitlines()[-1] in report._repr_html_()
    assert repr(report) == str(report)


def test_the_book_of_relevance_is_one_as_well():
    attr = fa.lrp(MODEL, fa.composites.epsilon_plus())
    book = fa.conserved(attr, torch.ones(1, 3), target=0)
    table = Table(book._repr_html_())
    assert [len(row) for row in table.cells] == [6] * (1 + len(book.rows))
    assert table.cells[0][-1] == "kept"
