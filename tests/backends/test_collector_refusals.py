"""What is lost when somebody says no: the other half of the table in collector-config/README.md.

Behind the real Collectors with the files as they are shipped is a receiver that counts, and refuses as it is told.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import collector_tiers as tiers
from tests.support.backends import Collector, Programs, eventually
from tests.support.collector import BAD_REQUEST, OK, THROTTLED, UNAVAILABLE, Answer, HttpCollector
from tests.support.otlp_senders import send_logs

SENT_FAILED = "otelcol_exporter_send_failed_log_records"


@pytest.fixture
def gate(tmp_path: Path, backend: HttpCollector, shared: tiers.Secrets, programs: Programs) -> Iterator[Collector]:
    """A gateway, made and not started."""
    there = tiers.gateway(tmp_path / "gateway", backend, shared)
    yield there
    there.kill()


@pytest.fixture
def node(tmp_path: Path, gate: Collector, shared: tiers.Secrets) -> Iterator[Collector]:
    """The Collector of a node, made and not started."""
    there = tiers.agent(tmp_path / "agent", tiers.nodes_of(gate), shared)
    yield there
    there.kill()


@pytest.mark.parametrize("answer", [THROTTLED, UNAVAILABLE, Answer(502), Answer(504)], ids=lambda answer: answer.status)
def test_a_backend_that_cannot_now_is_waited_for(
    node: Collector, gate: Collector, backend: HttpCollector, answer: Answer
) -> None:
    """429, 502, 503, 504 mean: again."""
    backend.behaviour = answer
    gate.start()
    node.start()
    send_logs(node.otlp_grpc, ["one", "two"])
    assert backend.wait_for_requests(3, 30)
    backend.behaviour = OK
    assert backend.wait_for(2, 30)
    assert gate.metrics().get(SENT_FAILED, 0) == 0


@pytest.mark.parametrize(
    "answer",
    [BAD_REQUEST, Answer(401), Answer(403), Answer(404), Answer(413), Answer(500)],
    ids=lambda answer: answer.status,
)
def test_what_a_backend_refuses_for_good_is_lost_and_counted(
    node: Collector, gate: Collector, backend: HttpCollector, answer: Answer
) -> None:
    """The specification of OTLP has it so, for a wrong key of the backend, too: the whole batch, and no more."""
    backend.behaviour = answer
    gate.start()
    node.start()
    send_logs(node.otlp_grpc, ["one", "two"])
    eventually(lambda: gate.metrics(exporter="otlp_http/logs").get(SENT_FAILED) == 2)
    backend.behaviour = OK
    send_logs(node.otlp_grpc, ["three"])
    assert backend.wait_for(1, 30)
    assert set(backend.uids()) == {"three"}
    assert backend.requests == 2
    assert any("otlp_http/logs" in line and "Permanent error" in line for line in tiers.trouble(gate))


def test_what_a_backend_takes_in_part_is_lost_in_part_and_only_the_log_says_so(
    node: Collector, gate: Collector, backend: HttpCollector
) -> None:
    """A partial success counts as sent: this line of the table has no counter."""
    backend.behaviour = Answer(rejected=1, message="too old")
    gate.start()
    node.start()
    send_logs(node.otlp_grpc, ["one", "two"])
    assert backend.wait_for(1, 30)
    eventually(lambda: any("Partial success" in line for line in tiers.trouble(gate)))
    eventually(lambda: gate.metrics(exporter="otlp_http/logs")["otelcol_exporter_sent_log_records"] == 2)
    assert gate.metrics().get(SENT_FAILED, 0) == 0


def test_a_gateway_that_refuses_the_token_costs_what_was_sent_meanwhile(
    tmp_path: Path, node: Collector, gate: Collector, backend: HttpCollector
) -> None:
    """The same between node and gateway: lost, counted; so a new token is handed out while the old one still opens."""
    gate.start()
    right, node.env["GATEWAY_TOKEN"] = node.env["GATEWAY_TOKEN"], "wrong"
    node.start()
    send_logs(node.otlp_grpc, ["one", "two"])
    eventually(lambda: node.metrics().get(SENT_FAILED) == 2)
    node.env["GATEWAY_TOKEN"] = right
    node.restart()
    send_logs(node.otlp_grpc, ["three"])
    assert backend.wait_for(1, 30)
    assert set(backend.uids()) == {"three"}
