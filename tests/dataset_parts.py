"""What the tests of the command import by path."""

from dataset_cases import Pictures, attributions, model

__all__ = ["attributions", "broken", "good", "model", "network"]

network = model()


def good():
    return Pictures(12)


def broken():
    return Pictures(12, broken=[4])
