"""What a network is made of, as plain values, and how one is drawn."""

from dataclasses import dataclass, field
from random import Random
from typing import Any


@dataclass(frozen=True)
class Block:
    """One piece of a network: its kind, and what was drawn for it."""

    kind: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Spec:
    """A network, its weights and its inputs. Blocks that do not fit what comes in are left out."""

    seed: int
    dims: int  # spatial dimensions of the input; 0 for vectors
    blocks: tuple[Block, ...]
    batch: int = 3
    channels: int = 3
    size: int = 4
    train: bool = False
    channels_last: bool = False
    inputs: str = "one"
    outputs: str = "tensor"
    extras: tuple[str, ...] = ()
    squared: bool = True


INPUTS = ("one", "one", "one", "two", "tuple", "dict", "keyword")
OUTPUTS = ("tensor", "tensor", "tensor", "tensor", "map", "tuple", "dict", "named")
EXTRAS = ("double", "sqrt", "log", "argmax", "input", "detached")


def draw(random: Random) -> Spec:
    """A network, of nothing but what ``random`` says."""
    from .pieces import draw_blocks  # the pieces draw blocks of their own

    blocks = draw_blocks(random, random.randint(1, 5), depth=2)
    relu = draw_blocks(random, 1, depth=0, kinds=("Relu",))
    at = random.randint(0, len(blocks))
    outputs = random.choice(OUTPUTS)
    several = outputs in ("tuple", "dict", "named")
    return Spec(
        seed=random.randint(0, 10**6),
        dims=random.choice((0, 1, 2, 2, 2, 2, 3)),
        blocks=(*blocks[:at], *relu, *blocks[at:]),
        batch=random.choice((1, 2, 3)),
        channels=random.choice((2, 3, 4)),
        size=random.choice((3, 4, 5)),
        train=random.random() < 0.25,
        channels_last=random.random() < 0.2,
        inputs=random.choice(INPUTS),
        outputs=outputs,
        extras=tuple(random.sample(EXTRAS, random.randint(1, 2))) if several else (),
        squared=random.random() < 0.6,
    )


def literal(spec: Spec) -> str:
    """The spec as Python, to be pasted into `networks.build`."""
    return repr(spec)


def smaller(spec: Spec):
    """Specs with one thing less, for a shrinker; the largest cuts first."""
    from dataclasses import replace

    for i in range(len(spec.blocks)):
        yield replace(spec, blocks=spec.blocks[:i] + spec.blocks[i + 1 :])
    for i, block in enumerate(spec.blocks):
        for less in _smaller(block):
            yield replace(spec, blocks=(*spec.blocks[:i], *less, *spec.blocks[i + 1 :]))
    plain = dict(
        extras=spec.extras[:-1] if len(spec.extras) > 1 else spec.extras,
        outputs="tensor",
        inputs="one",
        train=False,
        channels_last=False,
        squared=False,
        batch=1,
        channels=2,
        size=3,
        dims=0,
    )
    for name, value in plain.items():
        if getattr(spec, name) != value:
            yield replace(spec, **{name: value})


def _smaller(block: Block):
    """What may stand for a block: what is inside of it, or itself with less inside."""
    for name, inner in block.options.items():
        if not (isinstance(inner, tuple) and inner and isinstance(inner[0], Block)):
            continue
        yield inner
        for i in range(len(inner)):
            cut = (inner[:i] + inner[i + 1 :],)
            cut += tuple((*inner[:i], *less, *inner[i + 1 :]) for less in _smaller(inner[i]))
            for blocks in cut:
                yield (Block(block.kind, {**block.options, name: blocks}),)
