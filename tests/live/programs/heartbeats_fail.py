"""``torchrun`` whose heartbeats fail, and nothing else: the arguments are the module to run and its own.

The state is not to be reached from the heartbeat's thread while the file ``BEATS_FAIL`` names is there.
"""

import os
import runpy
import sys
import threading
from typing import Any

from torch.distributed.elastic.rendezvous import dynamic_rendezvous
from torch.distributed.elastic.rendezvous.api import RendezvousConnectionError

kind = dynamic_rendezvous._BackendRendezvousStateHolder
original = kind.sync


def sync(self: Any) -> Any:
    """As torch's own, but where it is to fail."""
    if "KeepAlive" in threading.current_thread().name and os.path.exists(os.environ["BEATS_FAIL"]):
        raise RendezvousConnectionError("the network is away")
    return original(self)


kind.sync = sync
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
