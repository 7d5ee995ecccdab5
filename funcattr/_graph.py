"""The site as one node of a compiled graph.

Imported only while the compiler traces: marking a function imports the compiler itself.
"""

import torch

from . import _intercept, _site

# Dynamo refuses a Function that has a jvp, and fails on vmap over a forward pass with a Function in
# it. As a node of its own the site is traced by AOTAutograd instead, and fused like any other code.
site_in_graph = torch.compiler.allow_in_graph(_intercept.site)  # type: ignore[no-untyped-call]
count_levels = torch.compiler.assume_constant_result(_site.count_levels)  # type: ignore[no-untyped-call]
