"""Models as ``torch.export`` writes them, by calls of ``torch.ops.aten`` that rules did not know.

Layer norms, averages, softmaxes and products had no rule there, and nobody was told.
"""

import pytest
import torch
import torch.nn.functional as F
from conftest import VERSION
from torch import nn

import funcattr as fa
from funcattr.operations.kinds.others.operators import FUNCTIONS

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
ops = torch.ops.aten
RULES = fa.rules


class Of(nn.Module):
    """A function of some layers and ``x``, between two linear layers."""

    def __init__(self, f, **layers):
        super().__init__()
        self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 3)
        self.layers, self.f = nn.ModuleDict(layers), f

    def forward(self, x):
        return self.last(self.f(self.layers, self.first(x))).mean(1)


def heads(n, x):
    q, k, v = n["qkv"](x).chunk(3, -1)
    mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
    scores = (q @ k.transpose(-2, -1) / 6**0.5).masked_fill(~mask, -torch.inf)
    return x + scores.softmax(-1) @ v


def rotary(n, x):
    q, k, v = n["qkv"](x).split(6, dim=-1)
    angle = torch.arange(5.0, dtype=x.dtype)[:, None] * 0.3
    q, k = (
        t * angle.cos() + torch.cat([-t[..., 3:], t[..., :3]], -1) * angle.sin() for t in (q, k)
    )
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def einsums(n, x):
    q, k, v = (t.reshape(*t.shape[:2], 2, 3) for t in n["qkv"](x).chunk(3, -1))
    weights = torch.einsum("bqhd,bkhd->bhqk", q, k).softmax(-1)
    return torch.einsum("bhqk,bkhd->bqhd", weights, v).flatten(2)


def pooled(n, x):
    y = n["conv"](x.transpose(1, 2)[..., None].expand(-1, -1, -1, 4))
    y = F.max_pool2d(F.relu(n["norm"](y)), 2, padding=1)
    return F.adaptive_avg_pool2d(y, 1).flatten(1)[:, None] + x


MODELS = {
    "layer norm": lambda: Of(lambda n, x: F.gelu(n["a"](x)), a=nn.LayerNorm(6)),
    "batch norm": lambda: Of(lambda n, x: n["a"](x.mT).mT.relu(), a=nn.BatchNorm1d(6)),
    "group norm": lambda: Of(lambda n, x: F.silu(n["a"](x.mT)).mT, a=nn.GroupNorm(2, 6)),
    "instance norm": lambda: Of(lambda n, x: n["a"](x.mT).mT.tanh(), a=nn.InstanceNorm1d(6)),
    "rms by hand": lambda: Of(lambda n, x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)),
    "norm by hand": lambda: Of(lambda n, x: (x - x.mean(-1, True)) / x.std(-1, keepdim=True)),
    "length": lambda: Of(lambda n, x: x / x.norm(dim=-1, keepdim=True)),
    "normalize": lambda: Of(lambda n, x: F.normalize(x, dim=-1)),
    "gate": lambda: Of(
        lambda n, x: F.silu(n["a"](x)) * n["b"](x), a=nn.Linear(6, 6), b=nn.Linear(6, 6)
    ),
    "glu": lambda: Of(lambda n, x: F.glu(n["a"](x)), a=nn.Linear(6, 12)),
    "squeeze and excite": lambda: Of(
        lambda n, x: x * torch.sigmoid(n["a"](x.mean(1, True))), a=nn.Linear(6, 6)
    ),
    "attention": lambda: Of(heads, qkv=nn.Linear(6, 18)),
    "rotary": lambda: Of(rotary, qkv=nn.Linear(6, 18)),
    "einsum": lambda: Of(einsums, qkv=nn.Linear(6, 18)),
    "encoder": lambda: Of(
        lambda n, x: n["a"](x),
        a=nn.TransformerEncoderLayer(6, 2, 12, batch_first=True, dropout=0.0),
    ),
    "convolution": lambda: Of(pooled, conv=nn.Conv2d(6, 6, 3, padding=1), norm=nn.BatchNorm2d(6)),
    "convolution in 1-D": lambda: Of(
        lambda n, x: F.avg_pool1d(n["a"](x.mT).relu_(), 2).mT, a=nn.Conv1d(6, 6, 2)
    ),
    "transposed": lambda: Of(lambda n, x: n["a"](x.mT).mT.relu(), a=nn.ConvTranspose1d(6, 6, 3)),
    "in place": lambda: Of(lambda n, x: (x * 1).mul_(0.5).add_(x).relu_()),
    "softplus of a power": lambda: Of(lambda n, x: F.softplus(x) ** 2),
    "lerp": lambda: Of(lambda n, x: torch.lerp(x, n["a"](x), torch.sigmoid(x)), a=nn.Linear(6, 6)),
}  # fmt: skip
COMPOSITES = {
    "epsilon": lambda: fa.Composite(
        [("linear", RULES.epsilon()), ("convolution", RULES.epsilon())]
    ),
    "epsilon_plus": fa.composites.epsilon_plus,
    "epsilon_alpha2_beta1": fa.composites.epsilon_alpha2_beta1,
    "excitation_backprop": fa.composites.excitation_backprop,
    "attn_lrp": fa.composites.attn_lrp,
    "cp_lrp": fa.composites.cp_lrp,
}
METHODS = {name: lambda m, c=c: fa.lrp(m, c()) for name, c in COMPOSITES.items()}
METHODS["deep_lift"] = fa.deep_lift
METHODS["guided_backprop"] = lambda m: fa.guided_backprop(m, require_match=False)
METHODS["activations"] = lambda m: fa.rule_backprop(
    m, RULES.guided, sites=("relu", "gelu", "silu", "softplus", "sigmoid"), require_match=False
)


@pytest.fixture(scope="module", params=MODELS)
def pair(request):
    """A model, as it is and exported, and what is explained."""
    if VERSION < (2, 8):
        pytest.skip("torch.export takes norms apart here")
    torch.manual_seed(0)
    model = MODELS[request.param]().double()
    for name, p in model.named_parameters():
        if "norm" in name or p.dim() == 1:
            nn.init.normal_(p)
    for b in model.buffers():
        if b.is_floating_point():
            nn.init.uniform_(b, 0.5, 2)
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    return model.eval(), torch.export.export(model, (x,)).module(), x


@pytest.mark.parametrize("method", METHODS)
def test_a_model_and_what_is_exported_of_it(pair, method):
    model, exported, x = pair
    try:
        expected = METHODS[method](model)(x, target=1)
    except fa.FuncattrError as error:
        with pytest.raises(type(error), match="instance_norm"):
            METHODS[method](exported)(x, target=1)
        return
    found = METHODS[method](exported)(x, target=1)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_sweeps(pair):
    model, exported, x = pair
    for attr in (fa.gradient, METHODS["deep_lift"], METHODS["epsilon_plus"]):
        expected = fa.sweep(attr(model), x, targets=range(3))
        found = fa.sweep(attr(exported), x, targets=range(3))
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.compiled
@pytest.mark.skipif(VERSION < (2, 13), reason="funcattr refuses to be compiled before")
def test_compiled_as_well():
    torch.compiler.reset()
    torch.manual_seed(0)
    model, x = MODELS["gate"]().double(), torch.randn(2, 5, 6, dtype=torch.float64)
    attr = METHODS["attn_lrp"](torch.export.export(model, (x,)).module())
    expected = fa.sweep(METHODS["attn_lrp"](model), x, targets=range(3))
    torch.testing.assert_close(fa.sweep(attr, x, targets=range(3), compile=True), expected)


W, B = torch.linspace(-1, 2, 4).double(), torch.linspace(2, 1, 4).double()
STATISTICS = (torch.linspace(0, 1, 4).double(), torch.linspace(1, 3, 4).double())
# (the spelling, the same by torch.nn.functional), of x [B, 4, 6]
SPELLINGS = {
    "aten.layer_norm": (
        lambda x: ops.layer_norm(x, [6], None, None, 1e-3),
        lambda x: F.layer_norm(x, [6], eps=1e-3),
    ),
    "aten.group_norm": (
        lambda x: ops.group_norm.default(x, 2, W, B, 1e-3),
        lambda x: F.group_norm(x, 2, W, B, 1e-3),
    ),
    "torch.group_norm": (
        lambda x: torch.group_norm(x, 2, W, B, 1e-3),
        lambda x: F.group_norm(x, 2, W, B, 1e-3),
    ),
    "aten.batch_norm": (
        lambda x: ops.batch_norm(x, W, B, *STATISTICS, False, 0.1, 1e-3, False),
        lambda x: F.batch_norm(x, *STATISTICS, W, B, eps=1e-3),
    ),
    "torch.batch_norm": (
        lambda x: torch.batch_norm(x, W, B, *STATISTICS, False, 0.1, 1e-3, False),
        lambda x: F.batch_norm(x, *STATISTICS, W, B, eps=1e-3),
    ),
    "torch.max_pool1d": (
        lambda x: torch.max_pool1d(x, 2, padding=1),
        lambda x: F.max_pool1d(x, 2, padding=1),
    ),
    "aten.max_pool1d": (lambda x: ops.max_pool1d.default(x, [2]), lambda x: F.max_pool1d(x, 2)),
    "aten.avg_pool1d": (lambda x: ops.avg_pool1d.default(x, [2]), lambda x: F.avg_pool1d(x, 2)),
    "aten.softmax": (lambda x: ops.softmax.int(x, -1) * x, lambda x: x.softmax(-1) * x),
    "aten._softmax": (lambda x: ops._softmax(x, -1, False) * x, lambda x: x.softmax(-1) * x),
    "aten.mean by name": (
        lambda x: x - ops.mean.dim(self=x, dim=[-1], keepdim=True),
        lambda x: x - x.mean(-1, keepdim=True),
    ),
    "aten.mul": (lambda x: ops.mul.Tensor(x, x.mT.mean()), lambda x: x * x.mT.mean()),
    "aten.mul_": (
        lambda x: ops.mul_.Tensor(x * 1, x.mean(1, True)),
        lambda x: (x * 1).mul_(x.mean(1, True)),
    ),
    "aten.div by a std": (
        lambda x: ops.div.Tensor(x, ops.std.correction(x, [-1], correction=0, keepdim=True)),
        lambda x: x / x.std(-1, correction=0, keepdim=True),
    ),
    "aten.linalg_vector_norm": (
        lambda x: x / ops.linalg_vector_norm(x, 2, [-1], True),
        lambda x: x / x.norm(dim=-1, keepdim=True),
    ),
    "aten.slice": (
        lambda x: ops.slice.Tensor(x.softmax(-1), 1, 0, 2) * x[:, 2:],
        lambda x: x.softmax(-1)[:, 0:2] * x[:, 2:],
    ),
    "aten._to_copy": (
        lambda x: ops._to_copy(x.softmax(-1), dtype=x.dtype) * x,
        lambda x: x.softmax(-1).clone() * x,
    ),
    "a clone in front of a norm": (
        lambda x: F.batch_norm(torch.clone(F.conv1d(x, KERNEL)), *STATISTICS, W, B),
        lambda x: F.batch_norm(F.conv1d(x, KERNEL), *STATISTICS, W, B),
    ),
    "aten.conv1d": (
        lambda x: ops.conv1d.default(x, KERNEL, None, [2], [1]),
        lambda x: F.conv1d(x, KERNEL, None, 2, 1),
    ),
}
KERNEL = torch.randn(4, 4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
LAST = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
X = torch.randn(2, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("method", ["attn_lrp", "cp_lrp", "epsilon_plus", "deep_lift"])
@pytest.mark.parametrize("name", SPELLINGS)
def test_spellings(name, method):
    """Operators, and what torch has beside torch.nn.functional."""
    if "by name" in name and VERSION < (2, 4):
        pytest.skip("torch's operators do not take their first argument by name")
    f, known = (
        lambda x, one=one: F.pad(one(x), (0, 6))[..., :6].relu().mean(1) @ LAST
        for one in SPELLINGS[name]
    )
    expected = METHODS[method](known)(X, target=1)
    found = METHODS[method](f)(X, target=1)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11, equal_nan=True)


def test_statistics_of_the_input_under_vmap():
    """`torch.batch_norm` and `torch.instance_norm` write to running statistics, too."""
    mean, var = torch.zeros(4).double(), torch.ones(4).double()
    for f, known in (
        (
            lambda x: torch.batch_norm(x, W, B, mean, var, True, 0.1, 1e-3, False),
            lambda x: F.batch_norm(x, mean, var, W, B, True, 0.1, 1e-3),
        ),
        (
            lambda x: torch.instance_norm(x, W, B, mean, var, True, 0.1, 1e-3, False),
            lambda x: F.instance_norm(x, mean, var, W, B, True, 0.1, 1e-3),
        ),
    ):
        found, expected = (
            torch.vmap(
                lambda x, g=g: fa.guided_backprop(lambda x: g(x).relu().mean(1) @ LAST)(x, target=1)
            )(torch.stack([X, X + 1]))
            for g in (f, known)
        )
        torch.testing.assert_close(found, expected)


def test_rows_by_an_operator():
    """They are for the function that the operator is."""
    x = X[:, 0]
    for key in (ops.exp.default, ops.exp, torch.exp):
        for f in (torch.exp, ops.exp.default, lambda x: x.exp()):
            attr = fa.rule_backprop(f, lambda x, g: 7 * g, sites={key: lambda x, g: 7 * g})
            assert attr(x, target=0)[:, 0].eq(7).all()


@pytest.mark.parametrize("composite", ["attn_lrp", "epsilon_plus"])
def test_parts_of_norms_and_of_attention_are_refused(composite):
    """As `ExportedProgram.run_decompositions` writes them."""
    rows = getattr(fa.composites, composite)()
    for f in (
        lambda x: ops.native_layer_norm(x, [6], None, None, 1e-5)[0],
        lambda x: ops.native_group_norm.default(x, W, B, 2, 4, 6, 2, 1e-5)[0],
        lambda x: ops.native_batch_norm(x, W, B, *STATISTICS, False, 0.1, 1e-5)[0],
        lambda x: ops._batch_norm_no_update(x, W, B, *STATISTICS, 0.1, 1e-5)[0],
        lambda x: ops._fused_rms_norm(x, [6], None, 1e-5)[0],
    )[: 3 if VERSION < (2, 13) else None]:
        with pytest.raises(fa.FuncattrError, match="run_decompositions"):
            fa.lrp(lambda x, f=f: f(x).relu().mean(1) @ LAST, rows)(X, target=1)


def test_what_is_known_of_operators():
    assert FUNCTIONS[ops.mul.Tensor] is FUNCTIONS[ops.mul] is torch.mul
    assert FUNCTIONS[ops.mul_.Tensor] is torch.Tensor.mul_
    assert FUNCTIONS[ops.linalg_vector_norm.default] is torch.linalg.vector_norm
    assert ops.to.dtype not in FUNCTIONS
