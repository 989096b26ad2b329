"""What is HTTP's own: statuses, bodies, slow servers, addresses."""

from __future__ import annotations

from collections.abc import Iterator
from email.utils import formatdate
from typing import Any

import pytest
import requests

from tests.support.collector import DRIP, OK, REDIRECT, RESET, UNAVAILABLE, Answer, HttpCollector
from tests.support.relay import Relay
from tests.support.senders import SECOND_NS, sender_to
from tests.support.stored_events import deliveries, delivery
from torchelastic_otel.export.otel.http_responses import error_result, parse_retry_after
from torchelastic_otel.export.result import Disposition


@pytest.fixture
def collector() -> Iterator[HttpCollector]:
    """A receiver over HTTP."""
    with HttpCollector() as running:
        yield running


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_a_failure_that_says_so(collector: HttpCollector, status: int) -> None:
    """The exporter calls 302 a SUCCESS: all would be lost without a word."""
    collector.behaviour = REDIRECT.but(status=status)
    with sender_to(collector) as sender:
        outcome = sender.send(deliveries(1))
    assert outcome.disposition is Disposition.BLOCKED
    assert "redirects are not followed" in outcome.reason


@pytest.mark.parametrize(
    ("status", "disposition"),
    [
        (202, Disposition.DELIVERED),
        (204, Disposition.DELIVERED),
        (405, Disposition.BLOCKED),
        (407, Disposition.BLOCKED),
        (415, Disposition.BLOCKED),
        (422, Disposition.REJECTED),
        (425, Disposition.RETRY),
        (502, Disposition.RETRY),
        (504, Disposition.RETRY),
        (599, Disposition.RETRY),
    ],
)
def test_the_other_statuses(collector: HttpCollector, status: int, disposition: Disposition) -> None:
    """Only a status that speaks of the data refuses it; whatever else is unknown sampler it."""
    collector.behaviour = Answer(status, body=b"")
    with sender_to(collector) as sender:
        assert sender.send(deliveries(1)).disposition is disposition


@pytest.mark.parametrize("body", [b"<html>ok</html>", b"\xff\xff\xff"])
def test_a_200_with_a_body_that_is_no_otlp_is_delivered(collector: HttpCollector, body: bytes) -> None:
    """The status is the acknowledgement; asking again would only double the records."""
    collector.behaviour = Answer(body=body)
    with sender_to(collector) as sender:
        assert sender.send(deliveries(1)).disposition is Disposition.DELIVERED


def test_a_400_from_a_tls_port_holds_the_queue(collector: HttpCollector) -> None:
    """Go's server says it so; refusing would set every record aside for a missing `s` in the endpoint."""
    collector.behaviour = Answer(
        400, headers={"Content-Type": "text/plain"}, body=b"Client sent an HTTP request to an HTTPS server.\n"
    )
    with sender_to(collector) as sender:
        outcome = sender.send(deliveries(1))
    assert outcome.disposition is Disposition.BLOCKED
    assert "https://" in outcome.reason


def test_what_the_server_says_is_in_the_reason_on_one_line(collector: HttpCollector) -> None:
    """A person must see why; a server must not forge lines of our log."""
    collector.behaviour = Answer(503, headers={"Content-Type": "text/plain"}, body=b"no\nroom\x1b[31m" + b"!" * 1000)
    with sender_to(collector) as sender:
        reason = sender.send(deliveries(1)).reason
    assert reason.startswith("HTTP 503 Service Unavailable: no room [31m!!!")
    assert len(reason) < 300


def test_the_error_message_of_otlp_is_in_the_reason(collector: HttpCollector) -> None:
    """OTLP failures carry a google.rpc.Status."""
    from google.rpc.status_pb2 import Status

    collector.behaviour = Answer(400, body=Status(code=3, message="bad time").SerializeToString())
    with sender_to(collector) as sender:
        assert sender.send(deliveries(1)).reason == "HTTP 400 Bad Request: bad time"


def test_a_server_that_drips_header_bytes_ends_with_the_attempt_timeout(collector: HttpCollector) -> None:
    """Each byte renews the socket's own timeout: only cutting the socket ends it."""
    collector.behaviour = DRIP
    with sender_to(collector, timeout_s=3) as sender:
        outcome = sender.send(deliveries(1))
        assert outcome.disposition is Disposition.RETRY
        assert outcome.reason == "no complete response within 3 s"
        collector.behaviour = OK
        assert sender.send(deliveries(1)).disposition is Disposition.DELIVERED


def test_a_connection_that_is_cut_instead_of_an_answer_is_tried_again(collector: HttpCollector) -> None:
    """Whether it was taken is not known: at least once means again; and one request per attempt."""
    collector.behaviour = RESET
    with sender_to(collector) as sender:
        assert sender.send(deliveries(1)).disposition is Disposition.RETRY
    assert collector.requests == 1


def test_a_connection_that_the_server_closed_while_idle_costs_no_attempt(collector: HttpCollector) -> None:
    """Servers close idle connections all the time; that must not look like an outage."""
    with sender_to(collector) as sender:
        assert sender.send([delivery(1)]).disposition is Disposition.DELIVERED
        collector.stop()
        collector.start()
        assert sender.send([delivery(2)]).disposition is Disposition.DELIVERED


def test_retry_after_as_a_date_reaches_the_outcome(collector: HttpCollector) -> None:
    """RFC 9110 allows both forms, and proxies use this one."""
    collector.behaviour = UNAVAILABLE.but(headers={"Retry-After": formatdate(4_000_000_000, usegmt=True)})
    with sender_to(collector) as sender:
        waits = sender.send(deliveries(1)).retry_after_ns
    assert waits is not None
    assert waits > 3600 * SECOND_NS


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0", 0),
        ("1.5", 1_500_000_000),
        ("-3", 0),
        ("Thu, 01 Jan 1970 00:01:40 GMT", 10 * SECOND_NS),
        ("Thu, 01 Jan 1970 00:00:10 GMT", 0),
        ("inf", None),
        ("soon", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_in_every_form(value: str | None, expected: int | None) -> None:
    """Never negative, never infinite, never an exception."""
    assert parse_retry_after(value, now_ns=90 * SECOND_NS) == expected


def test_another_path_than_the_general_one_is_asked_for() -> None:
    """OTEL_EXPORTER_OTLP_LOGS_ENDPOINT is taken as it is, nothing appended."""
    with HttpCollector(path="/ingest/otlp") as collector, sender_to(collector) as sender:
        assert sender.send(deliveries(1)).disposition is Disposition.DELIVERED


@pytest.mark.parametrize("endpoint", ["http://[", "ftp://127.0.0.1/v1/logs", "nonsense"])
def test_an_endpoint_that_is_none_holds_the_queue(collector: HttpCollector, endpoint: str) -> None:
    """A typing error sampler every record and is said, without the URL, which may hold a key."""
    with sender_to(collector, OTEL_EXPORTER_OTLP_LOGS_ENDPOINT=endpoint + "?key=secret") as sender:
        outcome = sender.send(deliveries(1))
    assert outcome.disposition is Disposition.BLOCKED
    assert "secret" not in outcome.reason


def test_a_certificate_file_that_is_not_there_holds_the_queue(collector: HttpCollector) -> None:
    """The same for certificates: nobody's data is at fault."""
    missing: dict[str, Any] = {
        "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": "https://127.0.0.1:9",
        "OTEL_EXPORTER_OTLP_CERTIFICATE": "/none",
    }
    with sender_to(collector, **missing) as sender:
        assert sender.send(deliveries(1)).disposition is Disposition.BLOCKED


def test_the_reason_of_a_connection_error_has_no_url() -> None:
    """The library puts the whole URL into its message."""
    with pytest.raises(requests.ConnectionError) as raised:
        requests.post("http://user:secret@127.0.0.1:9/v1/logs?key=secret", timeout=1)
    outcome = error_result(raised.value)
    assert (outcome.disposition, outcome.reason) == (Disposition.RETRY, "ConnectionRefusedError: Connection refused")


def test_one_connection_serves_many_sends(collector: HttpCollector) -> None:
    """Over TLS a connection for each batch would cost more than the batch."""
    with Relay(collector.port) as relay:
        endpoint: dict[str, Any] = {"OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": f"http://127.0.0.1:{relay.port}/v1/logs"}
        with sender_to(collector, **endpoint) as sender:
            for answer in (OK, Answer(rejected=1), UNAVAILABLE, Answer(503, body=b"sorry"), OK):
                collector.behaviour = answer
                sender.send(deliveries(1))
        assert (relay.connections, collector.requests) == (1, 5)


def test_a_server_that_closes_after_each_answer_leaves_no_handle_open(collector: HttpCollector) -> None:
    """The second handle on the socket must go when urllib3's own does."""
    collector.behaviour = Answer(headers={"Connection": "close"})
    with sender_to(collector) as sender:
        for _ in range(3):
            assert sender.send(deliveries(1)).disposition is Disposition.DELIVERED
            assert sender._socket._handle is None
