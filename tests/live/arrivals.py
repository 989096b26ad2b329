"""What arrived of an agent, held against what torch really recorded in it.

Guarantees: nothing of our own, and no span, is taken for an event of torch's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tests.live.harness import Agent, is_beat
from tests.support.received import Receiver
from torchelastic_otel.testing.otlp_receiver import ReceivedRecord

_STATES = {
    ("AGENT", "RENDEZVOUS"): "torchelastic.agent.rendezvous_finished",
    ("AGENT", "ASSIGN_WORKER_RANKS"): "torchelastic.agent.ranks_assigned",
    ("AGENT", "SUCCEEDED"): "torchelastic.agent.succeeded",
    ("AGENT", "FAILED"): "torchelastic.agent.failed",
    ("WORKER", "START"): "torchelastic.worker.started",
    ("WORKER", "SUCCEEDED"): "torchelastic.worker.succeeded",
    ("WORKER", "FAILED"): "torchelastic.worker.failed",
    ("WORKER", "TERMINATED"): "torchelastic.worker.terminated",
}


def of(agent: Agent, records: Sequence[ReceivedRecord]) -> list[ReceivedRecord]:
    """An agent's records of torch's own events in the order of their first arrival, each uid once."""
    first: dict[str, ReceivedRecord] = {}
    for record in records:
        if record.resource.get("process.pid") == agent.pid and not record.attributes.get("torchelastic.inferred"):
            first.setdefault(record.uid, record)
    return list(first.values())


def assert_arrived(
    agent: Agent, receiver: Receiver, timeout_s: float = 15.0, *, beats: bool = True
) -> list[ReceivedRecord]:
    """Everything that torch recorded in the agent is at the receiver: once by uid, in order, under its own name.

    In order are the events of each of torch's threads; between two threads there is none.

    Args:
        agent: Whose events.
        receiver: Where they are to be.
        timeout_s: How long to wait for them.
        beats: Whether heartbeats and state syncs count; those of an agent that a signal ended go on behind its end.

    Returns:
        The agent's records in order.
    """
    told = [line for line in agent.torch_events if beats or not is_beat(line["event"].get("message"))]
    assert told, f"the agent recorded nothing; it said:\n{agent.output}"

    def counted(records: Sequence[ReceivedRecord]) -> list[ReceivedRecord]:
        return [record for record in of(agent, records) if beats or not is_beat(record.body)]

    receiver.wait_until(lambda records: len(counted(records)) >= len(told), timeout_s)
    arrived = counted(receiver.records)
    assert len(arrived) == len(told), f"{len(told)} events were recorded; it said:\n{agent.output}"
    # what we say ourselves, and spans, stand between them
    numbers = [int(record.uid.rpartition("-")[2]) for record in arrived]
    assert numbers == sorted(set(numbers))
    assert len({record.uid.rpartition("-")[0] for record in arrived}) == 1
    assert Counter(map(_words_of, arrived)) == Counter(_words(line["event"]) for line in told)
    for thread in {line["thread"] for line in told}:
        rest = iter(arrived)
        for event in (line["event"] for line in told if line["thread"] == thread):
            record = next((record for record in rest if _words_of(record) == _words(event)), None)
            assert record is not None, f"{_words(event)} of {thread} is not behind what came before it"
            assert_tells(record, event)
    return arrived


def _words(event: Mapping[str, Any]) -> str:
    """What an event is told apart by: its message, or the name that it is to have."""
    if "message" in event:
        return str(event["message"])
    return _STATES.get((event["source"], event["name"].rpartition(".")[2]), "torchelastic.event")


def _words_of(record: ReceivedRecord) -> str:
    """The same of a record."""
    rendezvous = record.event_name.startswith("torchelastic.rendezvous.")
    return str(record.body) if rendezvous else record.event_name


def assert_tells(record: ReceivedRecord, event: Mapping[str, Any]) -> None:
    """The record is of this event."""
    if "message" in event:
        assert record.body == event["message"]
        assert record.event_name.startswith("torchelastic.rendezvous.")
        assert record.event_name != "torchelastic.rendezvous.message"
        assert record.attributes["torchelastic.run.id"] == event["run_id"]
    else:
        assert record.event_name == _words(event)


def names(records: Sequence[ReceivedRecord]) -> list[str]:
    """Their event names without the common start."""
    return [record.event_name.removeprefix("torchelastic.") for record in records]
