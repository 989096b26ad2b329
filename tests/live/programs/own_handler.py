"""A launcher that gives torch's registry a handler of its own, as it could before we came. Arguments: torchrun's."""

from __future__ import annotations

import logging
import sys

from torch.distributed.elastic.events import handlers
from torch.distributed.run import main

if __name__ == "__main__":
    own = logging.StreamHandler(sys.stdout)
    own.setFormatter(logging.Formatter("OWN %(message)s"))
    handlers._log_handlers["own"] = own
    main(["--event-log-handler", "own", *sys.argv[1:]])
