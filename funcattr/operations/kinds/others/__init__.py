"""Elementwise functions of torch's that are no activations."""
