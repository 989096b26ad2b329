"""A user's own program: launches a function on two workers, twice, in one process.

Arguments: a port, the start method, and ``install`` or ``bare``: whether it installs the bridge for the first launch.
The last line it prints is what the launches returned, and our threads that were left.
"""

from __future__ import annotations

import json
import os
import sys
import threading


def work(base: int) -> int:
    """What a worker returns: the base and its rank."""
    return base + int(os.environ["RANK"])


def launch(port: int, start_method: str, base: int) -> dict[int, int]:
    """One job of one node and two workers."""
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=2,
        run_id=f"launch-{base}",
        rdzv_backend="c10d",
        rdzv_endpoint=f"127.0.0.1:{port}",
        start_method=start_method,
        max_restarts=0,
        monitor_interval=0.1,
    )
    returned: dict[int, int] = elastic_launch(config, work)(base)
    return returned


def main() -> None:
    """See the header of this file."""
    port, start_method, how = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    if how == "install":
        import torchelastic_otel

        torchelastic_otel.install()
    returned = launch(port, start_method, 10)
    if how == "install":
        torchelastic_otel.uninstall()
    again = launch(port, start_method, 20)
    left = [thread.name for thread in threading.enumerate() if thread.name.startswith("torchelastic-otel")]
    print(json.dumps({"returned": returned, "again": again, "threads": left if how == "install" else []}))


if __name__ == "__main__":
    main()
