"""The benchmarks of funcattr: ``python -m benchmarks --help``.

Each case checks the answers of all rivals before it times them, interleaves them, and stores its
figures with the environment that they were measured in.
"""
