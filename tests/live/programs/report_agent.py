"""An agent that tells at its end what of ours is in it. Arguments: torchrun's.

Threads are counted by the interpreter, so that those which `threading` does not know count, too; torch's own heartbeat
thread is left out.
"""

from __future__ import annotations

import json
import sys

from torch.distributed.elastic.agent.server.api import SimpleElasticAgent
from torch.distributed.elastic.rendezvous import c10d_rendezvous_backend, dynamic_rendezvous
from torch.distributed.run import main


def ours() -> list[str]:
    """Functions of torch's that are not torch's any more."""
    found = {
        "construct": dynamic_rendezvous.construct_and_record_rdzv_event,
        "construct of c10d": c10d_rendezvous_backend.construct_and_record_rdzv_event,
        "method name": dynamic_rendezvous.get_method_name,
        "agent": SimpleElasticAgent.__init__,
    }
    return [name for name, function in found.items() if not function.__module__.startswith("torch.")]


if __name__ == "__main__":
    main(sys.argv[1:])
    threads = [frame for frame in sys._current_frames().values() if "rendezvous" not in frame.f_code.co_filename]
    print(
        json.dumps(
            {
                "threads": len(threads),
                "ours": ours(),
                "sdk": [name for name in sys.modules if name.startswith("opentelemetry.sdk")],
            }
        )
    )
