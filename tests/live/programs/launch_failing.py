"""A program that launches a function on two workers, of which one raises. Argument: how processes are started."""

import os
import sys

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch


def train() -> None:
    """Raise on rank 1."""
    if os.environ["RANK"] == "1":
        raise ValueError("no loss")


if __name__ == "__main__":
    config = LaunchConfig(
        1,
        1,
        2,
        run_id="launch",
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        max_restarts=0,
        start_method=sys.argv[1],
    )
    try:
        elastic_launch(config, train)()
    except ChildFailedError:
        print("failed as it should")
