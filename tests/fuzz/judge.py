"""A network put through its checks: what is right, wrong, refused, or beyond torch itself."""

import torch
import torch._dynamo  # else loaded when first needed, which would count as a check's time
from torch.func import functional_call, grad, jvp, vjp, vmap

import funcattr as fa

from . import networks, oracles
from .case import Case, Hang, Skip, Tally, Wrong, cause, limited, quiet, unchanged
from .checks import CHECKS
from .flow_pieces import Checkpoint
from .oracles import tensors

LIMIT = 20  # seconds for a check that takes a tenth of one


def valid(case):
    """Whether torch itself can differentiate the network at all, to finite numbers."""
    Checkpoint.off = True
    try:
        maps = oracles.plain(case.spec, 0)
        oracles.whole(case.spec)
    except RuntimeError as error:
        if "inplace" in str(error):
            return False
        raise
    finally:
        Checkpoint.off = False
    return all(torch.isfinite(m).all() and m.abs().max() < 1e6 for m in maps)


def check(spec, tally: Tally, only=CHECKS):
    """Puts a network through its checks, and writes into ``tally`` what came of it."""
    with quiet():
        _check(spec, tally, only)


def _check(spec, tally, only):
    case = Case(spec)
    if not valid(case):
        tally.discarded += 1
        return
    tally.networks += 1
    for one in only:
        case = Case(spec)  # one check must not depend on another
        tally.checks += 1
        name = one.__name__
        tally.by_check[name] += 1
        limit = 10 * LIMIT if name == "compiled" else LIMIT
        try:
            with unchanged(case), limited(limit):
                one(case)
            tally.right += 1
        except (Skip, oracles.Unsaid) as why:
            tally.skipped[f"{name}: {why}"] += 1
        except Wrong as error:
            tally.wrong.append((name, str(error), spec))
        except Hang as error:
            tally.wrong.append((name, str(error), spec))
            return  # so will the others
        except fa.FuncattrError as error:
            _refused(case, name, error, tally)
        except Exception as error:
            _crashed(case, one, error, tally)


def _refused(case, name, error, tally):
    if isinstance(error, fa.NoSiteError) and not case.oracle.reached():
        tally.right += 1  # no ReLU is on the way, which is an error to be told of
    else:
        tally.refused[cause(error)] += 1
        tally.examples.setdefault(cause(error), (name, case.spec))


def _crashed(case, one, error, tally):
    try:
        plain_torch(case, one.__name__)
    except Exception as theirs:
        tally.torch_cannot[f"{one.__name__}: {cause(theirs)}"] += 1
        return
    tally.wrong.append((one.__name__, cause(error), case.spec))


def plain_torch(case, name):
    """The same of torch alone, without the library: raises where torch cannot do it."""
    net = networks.build(case.spec)
    state = dict(net.named_buffers())
    shapes, own = tensors(case.args), case.others()

    def f(xs, params):
        zeros = oracles.moved(case.args, [-t for t in shapes], 1.0)
        args = oracles.moved(zeros, xs, 1.0)
        fresh = {name: b.clone() for name, b in state.items()}
        return networks.scores(functional_call(net, {**fresh, **params}, args, case.kwargs))

    def pulled(xs, params=own, row=1):
        out, pull = vjp(lambda *xs: f(xs, params), *xs)
        cot = torch.zeros_like(out)
        cot[:, row] = 1
        return pull(cot)

    if name in ("sweeps", "layers"):
        out, pull = vjp(lambda *xs: f(xs, own), *shapes)
        vmap(pull)(torch.stack([torch.ones_like(out)] * 2))
    elif name == "derivative":
        jvp(lambda *xs: pulled(xs), tuple(shapes), tuple(case.directions(shapes)))
        grad(lambda *xs: sum(g.sum() for g in pulled(xs)))(*shapes)
    elif name == "params":
        grad(lambda p: sum(g.sum() for g in pulled(shapes, p)))(own)
    elif name == "ensemble":
        vmap(lambda p: pulled(shapes, p))({n: torch.stack([p, p]) for n, p in own.items()})
    elif name == "batches":
        vmap(lambda *xs: pulled(xs))(*(torch.stack([t, t]) for t in shapes))
    elif name == "compiled":
        torch.compiler.reset()
        torch.compile(lambda *xs: pulled(xs), backend="aot_eager")(*shapes)
    else:
        pulled(shapes)
