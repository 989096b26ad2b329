"""A real job through the tiers as they are shipped, to the real VictoriaLogs, Prometheus and Jaeger: by both routes.

Once through agent.yaml and gateway.yaml, once through agent.yaml, gateway-kafka.yaml, a real Kafka and consumer.yaml.
Nothing of the files is changed but addresses, folders, pauses between tries, and how long the sampler waits.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from tests.backends.file_exports import Written
from tests.backends.jobs import Job, play_failed_job
from tests.support import collector_tiers as tiers
from tests.support.backends import Collector, Programs, Stack, eventually
from tests.support.collector import LONGEST_S
from tests.support.kafka_broker import Kafka, NoKafka

SAMPLING = {"processors": {"tail_sampling": {"decision_wait": "8s"}}}
DECIDED = "otelcol_processor_tail_sampling_global_count_traces_sampled"
LOST = re.compile(r"otelcol_(exporter_(send|enqueue)_failed|receiver_(refused|failed))_")
S = 1_000_000_000


@dataclass(frozen=True)
class Way:
    """A job that is over, and the Collectors that it went through.

    Attributes:
        job: What was played.
        tiers: All Collectors, the node's first.
        sampler: The one of them that samples.
        itself: Where a gateway is found by its peers. One that is its own only peer dials itself before it listens and
            after it has ceased to, and warns of it.
    """

    job: Job
    tiers: tuple[Collector, ...]
    sampler: Collector
    itself: str


@pytest.fixture(scope="module", params=["gateway", "kafka"])
def way(
    request: pytest.FixtureRequest, stack: Stack, programs: Programs, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Way]:
    """A real job of two nodes that fails once, played through the tiers; of the rest no trace is kept."""
    place = tmp_path_factory.mktemp(request.param)
    shared = tiers.Secrets.make(place / "secrets")
    with ExitStack() as running:
        if request.param == "gateway":
            gate = tiers.gateway(place / "gateway", stack, shared, overrides=SAMPLING, TRACE_SAMPLE_PERCENT="0")
            behind = (running.enter_context(gate),)
        else:
            try:
                kafka = running.enter_context(Kafka(place / "kafka", shared.certificate))
            except NoKafka as missing:
                pytest.skip(str(missing))
            for signal in ("logs", "metrics", "traces"):
                kafka.create_topic(f"torchelastic-{signal}", 2)
            gate = running.enter_context(tiers.kafka_gateway(place / "gateway", kafka, shared))
            taker = tiers.consumer(
                place / "consumer", kafka, stack, shared, overrides=SAMPLING, TRACE_SAMPLE_PERCENT="0"
            )
            behind = (gate, running.enter_context(taker))  # type: ignore[assignment]
        node = running.enter_context(tiers.agent(place / "agent", tiers.nodes_of(gate), shared))
        itself = tiers.peer_of(gate) if request.param == "gateway" else "no peers"
        job = play_failed_job(node, place / "job", nodes=2, name=f"by-{request.param}")
        yield Way(job, (node, *behind), behind[-1], itself)


def traces(job: Job) -> dict[str, list[Written]]:
    """What the agents wrote, by trace."""
    found = defaultdict(list)
    for span in job.spans():
        found[span.trace_id].append(span)
    return dict(found)


def asked(stack: Stack, job: Job, **more: object) -> str:
    """The query for the records of a job, with more conditions."""
    return stack.victorialogs.selector({"torchelastic.run.id": job.run_id, **more})


def uids(stack: Stack, job: Job, **more: object) -> Counter[str]:
    """How often VictoriaLogs has each record of the job, with more conditions."""
    lines = stack.victorialogs.query(asked(stack, job, **more), start_ns=job.truth.began_ns)
    return Counter(fields["log.record.uid"] for _, _, fields in lines)


def by(name: str) -> Callable[[Written], object]:
    """What an attribute says of a record; nothing where it has none."""
    return lambda record: record.attributes.get(name)


@pytest.fixture(scope="module")
def arrived(stack: Stack, way: Way) -> Way:
    """The same, once all of its records are in VictoriaLogs."""
    told = {record.uid for record in way.job.records()}
    eventually(lambda: told <= set(uids(stack, way.job)), LONGEST_S)
    return way


def test_every_event_is_in_the_log_store_once_with_its_name_and_its_cluster(stack: Stack, arrived: Way) -> None:
    """Nothing is lost or doubled on the way, and what the node's Collector adds is there."""
    told = arrived.job.records()
    assert uids(stack, arrived.job) == Counter(record.uid for record in told)
    assert uids(stack, arrived.job, cluster="cluster-of-the-tests") == uids(stack, arrived.job)
    lines = stack.victorialogs.query(asked(stack, arrived.job), start_ns=arrived.job.truth.began_ns)
    names = {fields["log.record.uid"]: fields["event_name"] for _, _, fields in lines}
    assert names == {record.uid: record.name for record in told}


@pytest.mark.parametrize(
    ("name", "least"),
    [("torchelastic.rendezvous.round", 2), ("torchelastic.group.rank", 2), ("torchelastic.worker.rank", 4)],
)
def test_events_are_found_by_round_node_rank_and_worker_rank(stack: Stack, arrived: Way, name: str, least: int) -> None:
    """Each finds what belongs to it, and nothing else."""
    told: dict[object, set[str]] = defaultdict(set)
    for record in arrived.job.records():
        told[by(name)(record)].add(record.uid)
    told.pop(None, None)
    assert len(told) >= least
    for value, records in told.items():
        assert set(uids(stack, arrived.job, **{name: value})) == records, f"{name}={value}"


def test_the_failed_running_and_the_restart_are_in_jaeger_whole_and_the_rest_is_not(stack: Stack, way: Way) -> None:
    """The gateway's sampler, or the consumer's, keeps what one looks at afterwards."""
    told = traces(way.job)
    kept = {
        trace
        for trace, spans in told.items()
        if any(span.failed or span.attributes["torchelastic.rendezvous.round"] > 0 for span in spans)
    }
    assert (len(told), len(kept)) == (4, 3), "two traces of each round; of them the first bring-up went well"
    eventually(lambda: way.sampler.metrics().get(DECIDED, 0) >= len(told), LONGEST_S)
    for trace in kept:
        spans = {span.span_id for span in told[trace]}
        eventually(lambda trace=trace, spans=spans: {one.span_id for one in stack.jaeger.trace(trace)} == spans)
    (left_out,) = set(told) - kept
    assert stack.jaeger.trace(left_out) == []
    found = stack.jaeger.search("torchrun", {"torchelastic.run.id": way.job.run_id})
    assert {spans[0].trace_id for spans in found} == kept
    (failed,) = (s for spans in found for s in spans if s.tags.get("error") is True and s.parent_id)
    assert failed.resource["host.name"] == way.job.truth.failed_host


def test_one_restart_is_one_in_prometheus(stack: Stack, way: Way) -> None:
    """Of two agents, each with series of its own, and through all queues."""
    restarts = f'torchelastic_restarts_total{{torchelastic_run_id="{way.job.run_id}"}}'
    counted = f"sum(max_over_time({restarts}[30m]))"
    eventually(lambda: stack.prometheus.query(counted)[0][1] >= 1)
    # all that the agents ever exported has come when nothing waits any more
    eventually(lambda: all(tiers.queued(tier) == 0 for tier in way.tiers))
    ((_, number),) = stack.prometheus.query(counted)
    assert number == way.job.truth.restarts == 1
    ((labels, value),) = stack.prometheus.query(f"max_over_time({restarts}[30m]) > 0")
    assert (labels["torchelastic_restart_reason"], value) == (way.job.truth.reason, 1)
    assert labels["cluster"] == "cluster-of-the-tests"


def test_nobody_refused_anything_and_no_collector_warned(stack: Stack, arrived: Way) -> None:
    """By the counters of each tier, by the agents' own, and by each tier's log, through an orderly end."""
    for tier in arrived.tiers:
        assert {name: value for name, value in tier.metrics().items() if LOST.match(name) and value} == {}
    for name in ("torchelastic_export_rejected_total", "torchelastic_spool_dropped_total"):
        of_run = f'max_over_time({name}{{torchelastic_run_id="{arrived.job.run_id}"}}[30m])'
        assert {value for _, value in stack.prometheus.query(of_run)} == {0}
    eventually(lambda: all(tiers.queued(tier) == 0 for tier in arrived.tiers))
    for tier in arrived.tiers:
        assert tier.stop() == 0
    said = [line for tier in arrived.tiers for line in tiers.trouble(tier)]
    dialled = [line for line in said if arrived.itself in line and "createTransport failed to connect" in line]
    assert [line for line in said if line not in dialled] == []
