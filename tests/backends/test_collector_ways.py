"""What becomes of telemetry on its way through our Collectors: what is added and kept whole, where a trace goes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support import collector_tiers as tiers
from tests.support.backends import Collector, Programs, eventually
from tests.support.collector import HttpCollector, attributes_of
from tests.support.otlp_senders import point, record, send_logs, send_metrics, send_spans, span, trace_id
from tests.support.relay import Relay

QUICK = {"processors": {"tail_sampling": {"decision_wait": "2s"}}}
RECEIVED = "otelcol_processor_tail_sampling_new_trace_id_received"


@pytest.fixture
def gate(tmp_path: Path, backend: HttpCollector, shared: tiers.Secrets, programs: Programs) -> Iterator[Collector]:
    """A gateway that judges traces after two seconds, and keeps none by chance."""
    with tiers.gateway(tmp_path / "gateway", backend, shared, overrides=QUICK, TRACE_SAMPLE_PERCENT="0") as there:
        yield there


@pytest.fixture
def node(tmp_path: Path, gate: Collector, shared: tiers.Secrets) -> Iterator[Collector]:
    """An agent in front of it."""
    with tiers.agent(tmp_path / "agent", tiers.nodes_of(gate), shared) as there:
        yield there


def test_all_three_signals_come_through_both_tiers(node: Collector, backend: HttpCollector) -> None:
    """TLS, token, disk queues and both hops: what is sent arrives, once."""
    send_logs(node.otlp_grpc, ["one", "two"])
    send_spans(node.otlp_grpc, [span(1, 1, error=True)])
    send_metrics(node.otlp_grpc, [point("a.metric", 7.0)])
    assert backend.wait_until(lambda: len(backend.records()) == 2 and bool(backend.spans() and backend.metrics()), 20)
    assert backend.uids() == ["one", "two"]
    assert backend.spans()[0][1].trace_id == trace_id(1)
    assert backend.metrics()[0][1].gauge.data_points[0].as_double == 7.0


def test_the_event_name_is_an_attribute_too_and_only_where_there_is_one(
    node: Collector, backend: HttpCollector
) -> None:
    """Loki drops the event name, and it is what one looks for first."""
    send_logs(node.otlp_grpc, [record("a", "torchelastic.restart.completed"), record("b")])
    assert backend.wait_for(2, 20)
    told = {attributes_of(one.attributes)["log.record.uid"]: one for _, one in backend.records()}
    assert told["a"].event_name == "torchelastic.restart.completed"
    assert attributes_of(told["a"].attributes)["event_name"] == "torchelastic.restart.completed"
    assert "event_name" not in attributes_of(told["b"].attributes)


@pytest.mark.parametrize(
    ("says", "cluster"),
    [
        ({}, "cluster-of-the-tests"),
        ({"k8s.cluster.name": "k", "slurm.cluster.name": "s"}, "k"),
        ({"slurm.cluster.name": "s"}, "s"),
        ({"cluster": "its own", "k8s.cluster.name": "k"}, "its own"),
    ],
)
def test_the_cluster_is_what_the_job_says_else_what_the_node_does(
    node: Collector, backend: HttpCollector, says: dict[str, str], cluster: str
) -> None:
    """One word in all backends, in all signals, and nobody's own word is overwritten."""
    send_logs(node.otlp_grpc, ["a"], says)
    send_spans(node.otlp_grpc, [span(1, 1, error=True)], says)
    send_metrics(node.otlp_grpc, [point("a.metric", 7.0)], says)
    assert backend.wait_until(lambda: bool(backend.records() and backend.spans() and backend.metrics()), 20)
    for resource, _ in [*backend.records(), *backend.spans(), *backend.metrics()]:
        assert resource["cluster"] == cluster


def test_a_cluster_that_is_a_number_stays_a_word(
    tmp_path: Path, gate: Collector, shared: tiers.Secrets, backend: HttpCollector
) -> None:
    """Configuration reads 0017 as a number, and a label that changes its type is two labels."""
    with tiers.agent(tmp_path / "agent", tiers.nodes_of(gate), shared, CLUSTER_NAME="17") as node:
        send_logs(node.otlp_grpc, ["a"])
        assert backend.wait_for(1, 20)
    assert backend.records()[0][0]["cluster"] == "17"


def test_errors_restarts_and_slow_bring_ups_are_kept_whole_and_the_rest_is_left_out(
    node: Collector, backend: HttpCollector, gate: Collector
) -> None:
    """What one looks at afterwards must all be there; here nothing of the rest is kept, so each policy shows."""
    failed = [span(1, 1, "torchelastic.round", error=True), span(1, 2, "torchelastic.rendezvous"), span(1, 3)]
    restart = [span(2, number, "torchelastic.rendezvous", round=1) for number in range(3)]
    slow = [span(3, 1, "torchelastic.round", s=61, round=0), span(3, 2, "torchelastic.rendezvous", round=0)]
    well = [span(4, 1, "torchelastic.round", s=59, round=0), span(4, 2, "torchelastic.rendezvous", round=0)]
    others = [span(5, 1, "GET /", s=300)]
    for one in [*failed, *restart, *slow, *well, *others]:
        send_spans(node.otlp_grpc, [one])
    wanted = Counter({trace_id(1): 3, trace_id(2): 3, trace_id(3): 2})
    eventually(lambda: Counter(one.trace_id for _, one in backend.spans()) == wanted)
    decided = "otelcol_processor_tail_sampling_global_count_traces_sampled"
    eventually(lambda: gate.metrics(sampled="false").get(decided) == 2)
    assert Counter(one.trace_id for _, one in backend.spans()) == wanted


def test_a_span_that_comes_after_the_decision_shares_it(
    node: Collector, backend: HttpCollector, gate: Collector
) -> None:
    """A node whose spool was held up sends late: its part of a kept trace is kept, and an error of its own is, too."""
    decided = "otelcol_processor_tail_sampling_global_count_traces_sampled"
    for number in (2, 3):  # of traces that were left out the sampler remembers one
        send_spans(node.otlp_grpc, [span(1, 1, error=True), span(number, 1)][number - 2 :])
        eventually(lambda number=number: gate.metrics(sampled="false").get(decided) == number - 1)
    send_spans(node.otlp_grpc, [span(1, 2), span(2, 2, error=True), span(2, 3)])
    wanted = Counter({trace_id(1): 2, trace_id(2): 2})  # the first one of the second trace is gone
    eventually(lambda: Counter(one.trace_id for _, one in backend.spans()) == wanted)


def test_more_traces_than_the_sampler_has_room_for_wait_and_none_is_dropped(
    tmp_path: Path, backend: HttpCollector, shared: tiers.Secrets, programs: Programs
) -> None:
    """Else a burst would push out the oldest trace, which may be the restart that one looks for."""
    few = tiers.merged(QUICK, {"processors": {"tail_sampling": {"num_traces": 10}}})
    with (
        tiers.gateway(tmp_path / "gateway", backend, shared, overrides=few, TRACE_SAMPLE_PERCENT="0") as gate,
        tiers.agent(tmp_path / "agent", tiers.nodes_of(gate), shared) as node,
    ):
        send_spans(node.otlp_grpc, [span(trace, 1, error=trace % 2 == 0) for trace in range(1, 41)])
        wanted = {trace_id(trace) for trace in range(2, 41, 2)}
        eventually(lambda: {one.trace_id for _, one in backend.spans()} == wanted, 60)


def test_of_two_gateways_all_spans_of_a_trace_come_to_one(
    tmp_path: Path, backend: HttpCollector, shared: tiers.Secrets, programs: Programs
) -> None:
    """Judged in two halves, a trace whose error is in the other half would lose this one."""
    with HttpCollector() as first, HttpCollector() as second:
        gates = [
            tiers.gateway(tmp_path / f"gateway-{number}", there, shared, overrides=QUICK, TRACE_SAMPLE_PERCENT="0")
            for number, there in enumerate((first, second))
        ]
        static = {"static": {"hostnames": [tiers.peer_of(gate) for gate in gates]}}
        for gate in gates:
            gate.overrides = tiers.merged(gate.overrides, {"exporters": {"load_balancing": {"resolver": static}}})
        with gates[0], gates[1]:
            nodes = [
                tiers.agent(tmp_path / f"agent-{number}", tiers.nodes_of(gate), shared)
                for number, gate in enumerate(gates)
            ]
            with nodes[0], nodes[1]:
                traces = range(1, 41)
                # half of each trace by the one way, once the half with the error, by the other, is with its sampler:
                # how long the second half takes is then no matter
                send_spans(nodes[1].otlp_grpc, [span(trace, 2, error=True) for trace in traces])
                eventually(lambda: sum(gate.metrics().get(RECEIVED, 0) for gate in gates) >= len(traces), 60)
                send_spans(nodes[0].otlp_grpc, [span(trace, 1) for trace in traces])
                eventually(
                    lambda: len({(one.trace_id, one.span_id) for _, one in first.spans() + second.spans()}) == 80, 60
                )
        halves = [{one.trace_id for _, one in there.spans()} for there in (first, second)]
        assert halves[0] & halves[1] == set()
        assert all(len(half) >= 5 for half in halves)


def test_while_the_number_of_gateways_changes_a_trace_is_judged_in_parts(
    tmp_path: Path, backend: HttpCollector, shared: tiers.Secrets, programs: Programs
) -> None:
    """Some traces move to the new one: what came before is judged without what comes after.

    The first gateway still knows itself alone, the second one knows both: as for a moment when one was added.
    """
    with HttpCollector() as other:
        old, new = (
            tiers.gateway(tmp_path / name, there, shared, overrides=QUICK, TRACE_SAMPLE_PERCENT="0")
            for name, there in (("old", backend), ("new", other))
        )
        both = {"static": {"hostnames": [tiers.peer_of(old), tiers.peer_of(new)]}}
        new.overrides = tiers.merged(new.overrides, {"exporters": {"load_balancing": {"resolver": both}}})
        slow = {"processors": {"tail_sampling": {"decision_wait": "60s"}}}
        for gate in (old, new):
            gate.overrides = tiers.merged(gate.overrides, slow)
        with old, new:
            nodes = [
                tiers.agent(tmp_path / f"agent-{number}", tiers.nodes_of(gate), shared)
                for number, gate in enumerate((old, new))
            ]
            with nodes[0], nodes[1]:
                traces = range(1, 41)
                send_spans(nodes[0].otlp_grpc, [span(trace, 1, round=0) for trace in traces])
                eventually(lambda: old.metrics().get(RECEIVED) == len(traces), 60)
                send_spans(nodes[1].otlp_grpc, [span(trace, 2, error=True, round=0) for trace in traces])
                spans = "otelcol_exporter_sent_spans"
                eventually(lambda: new.metrics(exporter="load_balancing").get(spans) == len(traces), 60)
            for gate in (old, new):  # each judges what it has, and sends what of that is in its queue then
                assert gate.stop() == 0
                gate.start()
            eventually(lambda: len({one.trace_id for _, one in backend.spans() + other.spans()}) == len(traces), 60)
            eventually(lambda: tiers.queued(old) == tiers.queued(new) == 0)
        stayed = Counter(one.trace_id for _, one in backend.spans())
        moved = Counter(one.trace_id for _, one in other.spans())
        assert set(stayed.values()) == {2}
        assert set(moved.values()) == {1}, "the part without the error was judged by itself, and left out"
        assert stayed.keys() | moved.keys() == {trace_id(trace) for trace in traces}


def test_the_name_of_the_peers_is_looked_up(
    tmp_path: Path, backend: HttpCollector, shared: tiers.Secrets, programs: Programs
) -> None:
    """As it is shipped the gateways find each other by DNS; the other tests name them one by one."""
    gate = tiers.gateway(tmp_path / "gateway", backend, shared, overrides=QUICK)
    port = tiers.peer_of(gate).partition(":")[2]
    balancing = gate.overrides["exporters"]["load_balancing"]
    balancing["resolver"] = {"dns": {"hostname": "127.0.0.1", "port": port}}
    with gate, tiers.agent(tmp_path / "agent", tiers.nodes_of(gate), shared) as node:
        send_spans(node.otlp_grpc, [span(1, 1, error=True)])
        eventually(lambda: len(backend.spans()) == 1)


def test_the_rest_is_sampled_by_trace(
    tmp_path: Path, backend: HttpCollector, shared: tiers.Secrets, programs: Programs
) -> None:
    """A percentage of traces, not of spans."""
    with (
        tiers.gateway(tmp_path / "gateway", backend, shared, overrides=QUICK, TRACE_SAMPLE_PERCENT="50") as gate,
        tiers.agent(tmp_path / "agent", tiers.nodes_of(gate), shared) as node,
    ):
        send_spans(node.otlp_grpc, [span(trace, number) for trace in range(1, 101) for number in (1, 2)])
        decided = "otelcol_processor_tail_sampling_global_count_traces_sampled"
        eventually(lambda: gate.metrics().get(decided) == 100)
        kept = gate.metrics(sampled="true")[decided]
        eventually(lambda: len(backend.spans()) == 2 * kept)
        assert 25 <= kept <= 75
        assert set(Counter(one.trace_id for _, one in backend.spans()).values()) == {2}


class Silencing(Relay):
    """A relay whose connections can fall silent: they stay open, and nothing passes on them any more."""

    def __init__(self, server_port: int) -> None:
        super().__init__(server_port)
        self._silent: set[Any] = set()

    def silence(self) -> None:
        """All that are there now; the next ones pass."""
        self._silent.update(self._open[1:])

    def _pass(self, source: Any, target: Any, count: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if source not in self._silent:
                    target.sendall(data)


def test_a_gateway_that_falls_silent_and_closes_nothing_is_left_for_another(
    tmp_path: Path, backend: HttpCollector, shared: tiers.Secrets, programs: Programs
) -> None:
    """A machine without power says no goodbye: the node asks whether somebody is there, and goes where somebody is.

    Each 30 s as it is shipped; here after 10, which is the least that gRPC lets a client ask.
    """
    soon = {"exporters": {"otlp_grpc/gateway": {"keepalive": {"time": "10s", "timeout": "1s"}}}}
    allowed = {"keepalive": {"enforcement_policy": {"min_time": "5s"}}}
    welcome = {"receivers": {"otlp/nodes": {"protocols": {"grpc": allowed}}}}
    with (
        tiers.gateway(tmp_path / "gateway", backend, shared, overrides=welcome) as gate,
        Silencing(int(tiers.nodes_of(gate).rpartition(":")[2])) as relay,
        tiers.agent(tmp_path / "agent", f"127.0.0.1:{relay.port}", shared, overrides=soon) as node,
    ):
        send_logs(node.otlp_grpc, ["before"])
        assert backend.wait_for(1, 60)
        connections = relay.connections
        relay.silence()
        send_logs(node.otlp_grpc, ["after"])
        assert backend.wait_for(2, 60)
        assert relay.connections > connections
        assert set(backend.uids()) == {"before", "after"}
