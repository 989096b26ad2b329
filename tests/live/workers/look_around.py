"""Imports what training scripts import of torch, and tells what came with it. Arguments: the file to tell it to."""

import json
import os
import sys
import time

before = time.monotonic()
import torch  # noqa: E402
import torch.distributed  # noqa: E402
import torch.distributed.checkpoint  # noqa: E402
import torch.distributed.elastic.multiprocessing.errors  # noqa: E402

threads = {thread: frame.f_code.co_filename for thread, frame in sys._current_frames().items()}
with open(f"{sys.argv[1]}.tmp", "w") as file:
    json.dump(
        {
            "pid": os.getpid(),
            "torch": torch.__version__,
            "threads": list(threads.values()),
            "modules": sorted(sys.modules),
            "spools": sorted(
                name
                for folder in os.scandir(os.environ["TORCHELASTIC_OTEL_SPOOL_DIR"])
                if folder.is_dir()
                for name in os.listdir(folder.path)
            )
            if os.path.isdir(os.environ["TORCHELASTIC_OTEL_SPOOL_DIR"])
            else [],
        },
        file,
    )
os.replace(f"{sys.argv[1]}.tmp", sys.argv[1])
