"""The operations of a forward pass: one file per kind, and what puts sites in their places."""
