"""One forward pass and its derivative; functions with rules."""
