"""gateway-kafka.yaml and consumer.yaml on both sides of a real Kafka broker, ids counted at both ends."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support import collector_tiers as tiers
from tests.support.backends import Collector, Programs, eventually
from tests.support.collector import OK, UNAVAILABLE, HttpCollector
from tests.support.kafka_broker import Kafka, NoKafka
from tests.support.otlp_senders import point, record, send_logs, send_metrics, send_spans, span, trace_id

PARTITIONS = 4
SIGNALS = ("logs", "metrics", "traces")
SAMPLING = {"processors": {"tail_sampling": {"decision_wait": "2s"}}}
RECEIVED = "otelcol_processor_tail_sampling_new_trace_id_received"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> tiers.Secrets:
    """A certificate and a token."""
    return tiers.Secrets.make(tmp_path_factory.mktemp("secrets"))


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory, shared: tiers.Secrets, programs: Programs) -> Iterator[Kafka]:
    """A broker for all tests of this file; without Java and Maven a skip that says how to get it."""
    try:
        broker = Kafka(tmp_path_factory.mktemp("kafka"), shared.certificate)
    except NoKafka as missing:
        pytest.skip(str(missing))
    with broker:
        yield broker


@pytest.fixture
def prefix(kafka: Kafka) -> str:
    """Topics of one test's own."""
    made = f"test-{uuid.uuid4().hex[:8]}"
    with ThreadPoolExecutor(len(SIGNALS)) as pool:
        list(pool.map(lambda signal: kafka.create_topic(f"{made}-{signal}", PARTITIONS), SIGNALS))
    return made


@pytest.fixture
def backend() -> Iterator[HttpCollector]:
    """What everything goes to in the end."""
    with HttpCollector() as there:
        yield there


@pytest.fixture
def gate(tmp_path: Path, kafka: Kafka, prefix: str, shared: tiers.Secrets) -> Iterator[Collector]:
    """A gateway, running."""
    with tiers.kafka_gateway(tmp_path / "gateway", kafka, shared, KAFKA_TOPIC_PREFIX=prefix) as there:
        yield there


@pytest.fixture
def node(tmp_path: Path, gate: Collector, shared: tiers.Secrets) -> Iterator[Collector]:
    """The Collector of a node in front of it, running."""
    with tiers.agent(tmp_path / "agent", tiers.nodes_of(gate), shared) as there:
        yield there


@pytest.fixture
def taker(
    tmp_path: Path, kafka: Kafka, prefix: str, backend: HttpCollector, shared: tiers.Secrets
) -> Iterator[Collector]:
    """A consumer, made and not started; its group has the name of the topics."""
    own = {"KAFKA_TOPIC_PREFIX": prefix, "KAFKA_GROUP": prefix}
    there = tiers.consumer(tmp_path / "consumer", kafka, backend, shared, overrides=SAMPLING, **own)
    yield there
    there.kill()


def test_all_three_signals_come_through_kafka_and_nobody_warns(
    node: Collector, gate: Collector, taker: Collector, backend: HttpCollector
) -> None:
    """What was there before the first consumer comes, too: a new group begins at the beginning."""
    send_logs(node.otlp_grpc, ["one", "two"])
    send_metrics(node.otlp_grpc, [point("a.metric", 7.0)])
    sent = "otelcol_exporter_sent_metric_points"
    eventually(lambda: gate.metrics().get(sent) == 1)
    taker.start()
    send_spans(node.otlp_grpc, [span(1, 1, error=True)])
    eventually(lambda: len(backend.records()) == 2 and backend.metrics() and backend.spans())
    assert sorted(backend.uids()) == ["one", "two"]
    assert gate.stop() == taker.stop() == 0
    assert tiers.trouble(gate) == tiers.trouble(taker) == []


def test_the_consumer_is_killed_in_the_middle_and_nothing_is_lost(
    node: Collector, taker: Collector, backend: HttpCollector
) -> None:
    """An offset is told to Kafka after what it stands for is on disk: what is in hand at a kill comes again."""
    taker.start()
    count, kills = 6_000, 3
    for number in range(0, count, 20):
        send_logs(node.otlp_grpc, [str(each) for each in range(number, number + 20)])
        if number in {count * kill // (kills + 1) for kill in range(1, kills + 1)}:
            assert backend.wait_for(number // 2, 60)
            taker.kill()
            taker.start()
    assert backend.wait_for(count, 60)
    assert set(backend.uids()) == {str(each) for each in range(count)}


def told_all(kafka: Kafka, prefix: str) -> bool:
    """Whether the group has told the end of everything that was sent; its client tells each second."""
    return {end - told for told, end in kafka.offsets(prefix).values() if end} == {0}


def test_the_consumer_is_killed_in_the_middle_and_no_point_is_lost(
    node: Collector, taker: Collector, kafka: Kafka, prefix: str, backend: HttpCollector
) -> None:
    """The same for metrics, and at the worst moment: Kafka was told, and the backend does not have it yet."""
    taker.start()
    names = [f"metric.{number}" for number in range(300)]
    for first in range(0, len(names), 100):
        part = names[first : first + 100]
        send_metrics(node.otlp_grpc, [point(name, 1.0) for name in part[:50]])
        eventually(lambda part=part: {one.name for _, one in backend.metrics()} >= set(part[:50]), 60)
        backend.behaviour = UNAVAILABLE
        send_metrics(node.otlp_grpc, [point(name, 1.0) for name in part[50:]])
        eventually(lambda: tiers.queued(taker) > 0 and told_all(kafka, prefix), 60)
        taker.kill()
        backend.behaviour = OK
        taker.start()
    eventually(lambda: {one.name for _, one in backend.metrics()} == set(names), 60)


def test_the_consumer_is_killed_and_the_spans_that_wait_in_its_sampler_are_lost(
    node: Collector, taker: Collector, kafka: Kafka, prefix: str, backend: HttpCollector
) -> None:
    """As with the gateway's: their offset was told when they were with the sampler, and it has them in memory."""
    waiting = {"processors": {"tail_sampling": {"decision_wait": "60s"}}}
    taker.overrides = tiers.merged(taker.overrides, waiting)
    taker.start()
    send_spans(node.otlp_grpc, [span(trace, 1, error=True) for trace in range(1, 11)])
    eventually(lambda: taker.metrics().get(RECEIVED) == 10)
    eventually(lambda: told_all(kafka, prefix))  # what it has not told would come again
    taker.kill()
    taker.overrides = tiers.merged(taker.overrides, SAMPLING)
    taker.start()
    send_spans(node.otlp_grpc, [span(11, 1, error=True)])
    eventually(lambda: {one.trace_id for _, one in backend.spans()} == {trace_id(11)}, 120)


def test_broker_and_gateway_are_killed_in_the_middle_and_nothing_is_lost(
    node: Collector, gate: Collector, taker: Collector, kafka: Kafka, backend: HttpCollector
) -> None:
    """The gateway keeps on its disk what Kafka has not taken."""
    taker.start()
    count = 3_000
    for number in range(0, count, 20):
        send_logs(node.otlp_grpc, [str(each) for each in range(number, number + 20)])
        if number == count // 3:
            kafka.kill()
    eventually(lambda: tiers.queued(node) == 0 and tiers.queued(gate) > 0)
    gate.kill()
    gate.start()
    kafka.start()
    assert backend.wait_for(count, 90)
    assert set(backend.uids()) == {str(each) for each in range(count)}


def test_without_a_backend_the_rest_stays_in_kafka_and_nothing_is_lost(
    node: Collector, taker: Collector, kafka: Kafka, prefix: str, backend: HttpCollector
) -> None:
    """A consumer whose queue is full takes no more; killed then, it goes on where Kafka was told."""
    port, count = backend.port, 3_000
    backend.stop()
    taker.env["QUEUE_MAX_BYTES"] = "1000000"
    taker.start()
    for number in range(0, count, 20):
        send_logs(node.otlp_grpc, [record(str(each), padding="x" * 1_000) for each in range(number, number + 20)])
    eventually(lambda: tiers.queued(node) == 0)

    def behind() -> int:
        return sum(end - told for told, end in kafka.offsets(prefix).values())

    # 3 MB in a queue of 1: that there is a rest is certain, and in which partitions it is, Kafka's client decides
    eventually(lambda: tiers.queued(taker) > 0 and behind() > 0)
    taker.kill()
    taker.start()
    backend.start(port)
    assert backend.wait_for(count, 90)
    assert set(backend.uids()) == {str(each) for each in range(count)}
    eventually(lambda: behind() == 0)


def held(taker: Collector) -> float:
    """The partitions that it reads."""
    told = taker.metrics()
    began, ended = (told.get(f"otelcol_kafka_receiver_partition_{what}", 0) for what in ("start", "close"))
    return began - ended


def test_of_two_consumers_all_spans_of_a_trace_come_to_one(
    tmp_path: Path, node: Collector, kafka: Kafka, prefix: str, shared: tiers.Secrets
) -> None:
    """The trace id is the key, and the key decides the partition: a trace is judged where all of it is."""
    with HttpCollector() as first, HttpCollector() as second:
        own = {"KAFKA_TOPIC_PREFIX": prefix, "KAFKA_GROUP": prefix}
        takers = [
            tiers.consumer(tmp_path / f"consumer-{number}", kafka, there, shared, overrides=SAMPLING, **own)
            for number, there in enumerate((first, second))
        ]
        with takers[0], takers[1]:
            # each has half of the partitions of each topic, and keeps them, before anything is sent
            half = PARTITIONS // 2 * len(SIGNALS)
            eventually(lambda: [held(taker) for taker in takers] == [half, half], 90)
            traces = range(1, 41)
            # the half with the error is with its sampler first: how long the other one takes is then no matter
            send_spans(node.otlp_grpc, [span(trace, 2, error=True) for trace in traces])
            eventually(lambda: sum(taker.metrics().get(RECEIVED, 0) for taker in takers) >= len(traces), 60)
            send_spans(node.otlp_grpc, [span(trace, 1) for trace in traces])
            eventually(
                lambda: len({(one.trace_id, one.span_id) for _, one in first.spans() + second.spans()}) == 80, 60
            )
        halves = [{one.trace_id for _, one in there.spans()} for there in (first, second)]
        assert halves[0] & halves[1] == set()
        assert halves[0] | halves[1] == {trace_id(trace) for trace in traces}
        assert all(halves)


def test_the_points_of_one_agent_come_in_their_order(
    node: Collector, gate: Collector, taker: Collector, backend: HttpCollector
) -> None:
    """Prometheus refuses a point that is older than its series' newest: an agent's metrics share a partition."""
    hosts, values = ("a", "b", "c"), range(8)
    for value in values:
        for host in hosts:
            send_metrics(node.otlp_grpc, [point("a.metric", value)], {"host.name": host})
        # so that each is a message of its own
        taken = len(hosts) * (value + 1)
        eventually(lambda taken=taken: gate.metrics()["otelcol_exporter_sent_metric_points"] == taken)
    taker.start()
    eventually(lambda: len(backend.metrics()) == len(hosts) * len(values), 60)
    for host in hosts:
        own = [one for resource, one in backend.metrics() if resource["host.name"] == host]
        assert [one.gauge.data_points[0].as_double for one in own] == list(values)
