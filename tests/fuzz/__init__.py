"""Random networks, made of what real ones are made of, against slow oracles.

A network is a `spec.Spec`, a tree of plain values, whose ``repr`` is all it takes to make it again:
``networks.build(spec)`` is the network as its author would have written it, and
``networks.build(spec, formula)`` the same program with every ReLU's backward written out. The two
share the program; the second shares nothing with funcattr. ``python -m tests.fuzz`` runs many.
"""

import sys
from pathlib import Path

# As pytest has it: the formulas of relevance are those of the tests in `relevance`.
if str(Path(__file__).parents[1]) not in sys.path:
    sys.path.append(str(Path(__file__).parents[1]))
