"""An agent that cannot reach its rendezvous: it is armed, records one failure, and the process ends."""

from __future__ import annotations

from torch.distributed.elastic.rendezvous import RendezvousParameters
from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler

if __name__ == "__main__":
    try:
        get_rendezvous_handler(RendezvousParameters("c10d", "127.0.0.1:1", "never", 1, 1, store_type="no such"))
    except ValueError as error:
        print(f"as expected: {error}")
