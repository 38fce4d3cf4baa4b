"""``python -m facezoo`` is the command ``facezoo``."""

from __future__ import annotations

import sys

from facezoo.cli import main

if __name__ == "__main__":
    sys.exit(main())
