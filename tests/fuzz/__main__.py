"""``python -m tests.fuzz -n 10000``: many networks, one line, and the tally in TALLY.json."""

import argparse
import sys
import time
from random import Random

from . import campaign
from .case import Tally
from .checks import CHECKS
from .compiled import compiled
from .judge import check
from .spec import Block, Spec, draw


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("-n", type=int, default=10_000, help="how many networks")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", help="where the tally goes, in the place of TALLY.json")
    parser.add_argument("--again", help="one network: a seed, or a spec as TALLY.json has it")
    parser.add_argument("--raw", action="store_true", help="do not make findings smaller")
    args = parser.parse_args()
    if args.again:
        return again(args.again)
    began = time.monotonic()
    log = (lambda text: print(text, file=sys.stderr, flush=True)) if sys.stderr.isatty() else str
    tally = campaign.run(args.first, args.n, args.processes, log)
    report = campaign.written(tally, args.first, args.n, not args.raw)
    campaign.save(report, *([campaign.Path(args.out)] if args.out else []))
    print(f"{campaign.line(tally)}; {(time.monotonic() - began) / 60:.0f} min")
    return 1 if tally.wrong else 0


def again(what):
    """All that the checks find in one network."""
    names = {"Spec": Spec, "Block": Block}
    spec = draw(Random(int(what))) if what.isdigit() else eval(what, names)
    tally = Tally()
    check(spec, tally, (*CHECKS, compiled) if what.isdigit() else CHECKS)
    print(spec)
    for name, text, _ in tally.wrong:
        print(f"wrong: {name}: {text}")
    print(f"refused: {dict(tally.refused)}", f"torch cannot: {dict(tally.torch_cannot)}", sep="\n")
    print(campaign.line(tally))
    return 1 if tally.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
