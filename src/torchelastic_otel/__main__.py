"""``python -m torchelastic_otel``: the same as ``torchelastic-otel``."""

from __future__ import annotations

import sys

from torchelastic_otel.cli import main

if __name__ == "__main__":  # multiprocessing imports this module again in spawned children
    sys.exit(main())
