"""``python -m funcattr``."""

import sys

from .dataset.command import main

if __name__ == "__main__":
    sys.exit(main())
