"""A launcher that registers a destination and hands over to torchrun. Arguments: torchrun's."""

from __future__ import annotations

import sys
from pathlib import Path

from torch.distributed.run import main

import torchelastic_otel

sys.path.insert(0, str(Path(__file__).parent))

from exporter import NamesToFile

if __name__ == "__main__":
    torchelastic_otel.register_destination("names", NamesToFile())
    main(["--event-log-handler", "names", *sys.argv[1:]])
