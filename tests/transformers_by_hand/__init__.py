"""Relevance and gradients on transformers: small ones, written by hand, against formulas."""
