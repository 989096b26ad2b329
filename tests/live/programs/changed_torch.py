"""An agent on a torch whose internals are not what we know. Arguments: the change, and torchrun's."""

from __future__ import annotations

import logging
import sys
from typing import Any

from torch.distributed.elastic import events
from torch.distributed.elastic.agent.server import api
from torch.distributed.elastic.rendezvous import c10d_rendezvous_backend, dynamic_rendezvous
from torch.distributed.run import main


def method_name_gone() -> None:
    """The name look-up went into another function."""
    original = dynamic_rendezvous.get_method_name
    dynamic_rendezvous._name_of_method = original
    for owner in (dynamic_rendezvous._DistributedRendezvousOpExecutor, dynamic_rendezvous.DynamicRendezvousHandler):
        owner._record = _record
    del dynamic_rendezvous.get_method_name


def _record(self: Any, message: str, node_state: Any = events.NodeState.RUNNING, rank: Any = None) -> None:
    node, settings = getattr(self, "_node", None) or self._this_node, self._settings
    dynamic_rendezvous.construct_and_record_rdzv_event(
        name=f"{type(self).__name__}.{dynamic_rendezvous._name_of_method(2)}",
        run_id=settings.run_id,
        message=message,
        node_state=node_state,
        hostname=node.addr,
        pid=node.pid,
        local_id=node.local_id,
        rank=rank,
    )


def construct_has_another_signature() -> None:
    """Two of its parameters went into keywords of any name."""
    original = events.construct_and_record_rdzv_event

    def construct_and_record_rdzv_event(run_id: str, message: str, node_state: Any, **more: Any) -> None:
        more.setdefault("name", sys._getframe(1).f_code.co_name)
        original(run_id, message, node_state, **more)

    for module in (events, dynamic_rendezvous, c10d_rendezvous_backend):
        module.construct_and_record_rdzv_event = construct_and_record_rdzv_event


def agent_takes_other_arguments() -> None:
    """The specification goes by another name."""
    original = api.SimpleElasticAgent.__init__

    def __init__(self: Any, *arguments: Any, **more: Any) -> None:
        original(self, *arguments, **more)

    api.SimpleElasticAgent.__init__ = __init__


def registry_gone() -> None:
    """Handlers are found in another way."""
    held = events.handlers._log_handlers
    events.handlers.get_logging_handler = events.get_logging_handler = lambda destination="null": held[destination]
    del events.handlers._log_handlers


CHANGES = {
    "method name gone": method_name_gone,
    "construct has another signature": construct_has_another_signature,
    "agent takes other arguments": agent_takes_other_arguments,
    "registry gone": registry_gone,
}

if __name__ == "__main__":
    logging.basicConfig()
    CHANGES[sys.argv[1]]()
    main(sys.argv[2:])
