"""Torch's ground: what every other package stands on. The only place with private torch."""
