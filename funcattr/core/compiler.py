"""Tells the compiler what it must know of funcattr. Imported when it first traces, since it imports
the compiler itself (about a second).
"""

import torch

from . import graph
from .private import show_to_modes

graph.check_compiler()  # an import that fails is tried again, so that each compilation is refused

for f in graph.nodes:
    torch.compiler.allow_in_graph(f)
for f in graph.constants:
    torch.compiler.assume_constant_result(f)
show_to_modes(graph.shown)
