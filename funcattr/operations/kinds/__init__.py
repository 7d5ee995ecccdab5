"""The kinds of operations, one file each."""
