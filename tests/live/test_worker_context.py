"""A worker's own spans joined to its node's, in a real job: by links, or below the node's span."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.live.environments import NEWEST
from tests.live.harness import PATIENCE_S, WORKERS, Agent, Agents, by_entry_point, c10d, otlp
from tests.support.ports import free_port
from tests.support.received import ReceivedSpan, Receiver
from torchelastic_otel import semconv
from torchelastic_otel.testing.otlp_receiver import ReceivedRecord

pytestmark = [pytest.mark.live, pytest.mark.torch]
IDENTIFIED = semconv.RUN_IDENTIFIED
USERS = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")


def test_a_workers_spans_are_joined_to_those_of_its_node(agents: Agents, receiver: Receiver, tmp_path: Path) -> None:
    """From the training's own trace one finds the node's; a `TRACEPARENT` of the user's is no less theirs for that."""
    go = tmp_path / "go"
    # nothing of whoever runs the tests
    settings = {**otlp(receiver), "TRACEPARENT": "", "TRACESTATE": ""}
    asked = {**settings, "TORCHELASTIC_OTEL_WORKER_CONTEXT": "link"}
    plain, joined, off = (
        agents.start(
            by_entry_point(NEWEST.python),
            *c10d(free_port(), restarts=1),
            *(WORKERS / "make_spans.py", tmp_path / name, go),
            env=env,
        )
        for name, env in (
            ("plain", asked),
            ("joined", {**asked, "TRACEPARENT": f"00-{'-'.join(USERS)}-01"}),
            ("off", settings),
        )
    )
    # workers that start before the agent has heard from the job's store get nothing: it is not waited for
    identified = {plain.pid, joined.pid}
    receiver.wait_until(
        lambda records: identified <= {pid_of(r) for r in records if r.event_name == IDENTIFIED}, PATIENCE_S
    )
    go.touch()
    assert [agent.wait() for agent in (plain, joined, off)] == [0, 0, 0]

    node = span_of_the_workers(plain, receiver)
    assert made_in(tmp_path / "plain") == {
        "linked": {"parent": None, "links": [node]},
        "below": {"parent": node, "links": []},
    }
    node = span_of_the_workers(joined, receiver)
    assert made_in(tmp_path / "joined") == {
        "linked": {"parent": None, "links": [list(USERS), node]},
        "below": {"parent": list(USERS), "links": [node]},
    }
    # nobody asked for it
    nothing: dict[str, Any] = {"parent": None, "links": []}
    assert made_in(tmp_path / "off") == {"linked": nothing, "below": nothing}


def made_in(path: Path) -> object:
    """What a worker wrote down about its spans."""
    return json.loads(path.read_text())


def pid_of(record: ReceivedRecord | ReceivedSpan) -> object:
    """Which process told it."""
    return record.resource[semconv.PROCESS_PID]


def span_of_the_workers(agent: Agent, receiver: Receiver) -> list[str]:
    """The trace and the id of the span of an agent's workers in its second round, as it arrived."""
    (span,) = (
        span
        for span in receiver.spans
        if span.name == semconv.SPAN_WORKERS and pid_of(span) == agent.pid
        if span.attributes[semconv.RENDEZVOUS_ROUND] == 1
    )
    return [span.trace_id, span.span_id]
