"""What is lost when: a test for each line of the table in collector-config/README.md, ids counted at both ends.

The sender is our own library with its spool, in a process of its own; behind it are the real Collectors with the files
as they are shipped, and behind these a receiver that counts.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from support import collector_tiers as tiers
from support.backends import Collector, Programs, eventually
from support.collector import HttpCollector
from support.drivers import Driver
from support.otlp_senders import point, send_logs, send_metrics, send_spans, span, trace_id

from torchelastic_otel.spool.glance import glance

SENT_FAILED = "otelcol_exporter_send_failed_log_records"
ACCEPTED = "otelcol_receiver_accepted_log_records"
ENQUEUE_FAILED = "otelcol_exporter_enqueue_failed_log_records"
OF_A_REQUEST = 50
"""Records that a process sends at once: more requests than by default, so that a kill meets some."""
SAMPLING = {"processors": {"tail_sampling": {"decision_wait": "2s"}}}

Drive = Callable[..., Driver]


@pytest.fixture
def gate(tmp_path: Path, backend: HttpCollector, shared: tiers.Secrets, programs: Programs) -> Iterator[Collector]:
    """A gateway, made and not started."""
    there = tiers.gateway(tmp_path / "gateway", backend, shared, overrides=SAMPLING)
    yield there
    there.kill()


@pytest.fixture
def node(tmp_path: Path, gate: Collector, shared: tiers.Secrets) -> Iterator[Collector]:
    """The Collector of a node, made and not started."""
    there = tiers.agent(tmp_path / "agent", tiers.nodes_of(gate), shared)
    yield there
    there.kill()


@pytest.fixture
def drive(tmp_path: Path, node: Collector) -> Iterator[Drive]:
    """Starts processes with our library and its spool, that send their events to the node's Collector."""
    running: list[Driver] = []

    def start(plan: str, count: int) -> Driver:
        driver = Driver(
            plan,
            count,
            {
                "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": node.otlp_grpc,
                "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL": "grpc",
                "OTEL_BLRP_SCHEDULE_DELAY": "10",
                "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE": str(OF_A_REQUEST),
                "TORCHELASTIC_OTEL_SPOOL_DIR": str(tmp_path),
            },
        )
        running.append(driver)
        return driver

    yield start
    for driver in running:
        if driver.process.poll() is None:
            driver.process.kill()
        driver.ended(30)


def came(backend: HttpCollector) -> set[str]:
    """The ids that came, each once."""
    return set(backend.uids())


def sent(backend: HttpCollector, count: int) -> set[str]:
    """The ids that one process gave to its events: the process's own, and a number from 1 on."""
    (instance,) = {resource["service.instance.id"] for resource, _ in backend.records()}
    return {f"{instance}-{number}" for number in range(1, count + 1)}


def all_came(backend: HttpCollector, count: int, deadline_s: float = 60) -> None:
    """Wait for all events of the one process, and for no other ids than its."""
    backend.wait_for(count, deadline_s)
    assert came(backend) == sent(backend, count)


# torchrun


def test_torchrun_is_killed_and_nothing_is_lost(
    drive: Drive, node: Collector, gate: Collector, backend: HttpCollector
) -> None:
    """SIGKILL right after the last event: what was not sent yet is in its spool, for the next one on the node."""
    gate.start()
    node.start()
    drive("killed", 500).heard()
    next_one = drive("adopts", 0)
    next_one.heard()
    all_came(backend, 500)
    next_one.go_on()
    assert next_one.ended()[0] == 0


# the node's Collector


def test_the_nodes_collector_is_killed_in_the_middle_of_a_stream_and_nothing_is_lost(
    drive: Drive, node: Collector, gate: Collector, backend: HttpCollector
) -> None:
    """What it had said yes to is on its disk, and what it had not is in the spool; the last time while it sends."""
    node.start()
    driver = drive("killed_in_the_middle", 100_000)
    for kill in range(3):
        for _ in range(1_000):
            driver.heard()
        eventually(lambda: node.metrics().get(ACCEPTED, 0) > 0 and tiers.queued(node) > 0)
        if kill == 2:
            gate.start()
            assert backend.wait_for(1, 60)
        node.kill()
        for _ in range(500):
            driver.heard()  # it goes on
        node.start()
    driver.process.kill()
    assert driver.process.stdout is not None
    last = json.loads(driver.process.stdout.read().splitlines()[-2])["n"]  # the very last line may be cut
    drive("adopts", 0).heard()
    backend.wait_for(last + 1, 60)
    missing = sent(backend, last + 1) - came(backend)
    assert missing == set()


def test_without_a_collector_on_the_node_the_spool_keeps_everything(
    drive: Drive, node: Collector, gate: Collector, backend: HttpCollector
) -> None:
    """A job that starts before its node's Collector, or while it is replaced."""
    gate.start()
    driver = drive("exits", 500)
    driver.heard()
    node.start()
    all_came(backend, 500)


def test_it_is_stopped_in_order_and_nothing_is_lost(
    drive: Drive, node: Collector, gate: Collector, backend: HttpCollector
) -> None:
    """An update of the DaemonSet, with the gateway away: the queue is still there afterwards."""
    node.start()
    drive("exits", 500).heard()
    eventually(lambda: node.metrics().get(ACCEPTED) == 500)
    assert node.stop() == 0
    gate.start()
    node.start()
    all_came(backend, 500)


# the gateway


def test_the_gateway_is_killed_in_the_middle_of_a_stream_and_no_record_is_lost(
    drive: Drive, node: Collector, gate: Collector, backend: HttpCollector
) -> None:
    """Logs and metrics go from disk to disk."""
    count, kills = 8_000, 3
    gate.start()
    node.start()
    drive("exits", count).heard()
    for kill in range(1, kills + 1):
        assert backend.wait_for(count * kill // (kills + 3), 60)
        gate.kill()
        assert len(came(backend)) < count
        gate.start()
    all_came(backend, count, 90)


def test_the_gateway_is_killed_and_the_spans_that_wait_in_its_sampler_are_lost(
    node: Collector, gate: Collector, backend: HttpCollector
) -> None:
    """The one thing that is in memory: the table names it, and this test says that there is no more to it."""
    received = "otelcol_processor_tail_sampling_new_trace_id_received"
    gate.overrides = tiers.merged(gate.overrides, {"processors": {"tail_sampling": {"decision_wait": "10s"}}})
    gate.start()
    node.start()
    send_spans(node.otlp_grpc, [span(trace, 1, error=True) for trace in range(1, 11)])
    eventually(lambda: gate.metrics().get(received) == 10)
    began = gate.metrics()["otelcol_process_uptime"]
    gate.kill()
    gate.start()
    assert gate.metrics()["otelcol_process_uptime"] < began + 5
    send_spans(node.otlp_grpc, [span(11, 1, error=True)])
    eventually(lambda: {one.trace_id for _, one in backend.spans()} == {trace_id(11)})


def test_the_gateway_is_stopped_in_order_and_the_spans_in_its_sampler_are_judged_and_kept(
    node: Collector, gate: Collector, backend: HttpCollector
) -> None:
    """An update of the gateway is no kill."""
    received = "otelcol_processor_tail_sampling_new_trace_id_received"
    gate.overrides = tiers.merged(gate.overrides, {"processors": {"tail_sampling": {"decision_wait": "60s"}}})
    gate.start()
    node.start()
    send_spans(node.otlp_grpc, [span(trace, 1, error=True) for trace in range(1, 11)])
    eventually(lambda: gate.metrics().get(received) == 10)
    assert gate.stop() == 0
    gate.start()
    eventually(lambda: {one.trace_id for _, one in backend.spans()} == {trace_id(trace) for trace in range(1, 11)})


def test_the_gateway_is_away_for_an_hour_and_nothing_is_lost(
    drive: Drive, node: Collector, gate: Collector, backend: HttpCollector
) -> None:
    """An hour by what it makes, not by the clock: more events and points than benchmarks/collector.py measures in one.

    That no exporter gives up by the clock (the default: after 300 s) is test_collector_starts.py's, and the next one's.
    """
    node.start()
    driver = drive("exits", 3_600)
    driver.heard()
    for minute in range(60):
        send_metrics(node.otlp_grpc, [point(f"metric.{number}", minute) for number in range(200)])
    eventually(lambda: node.metrics().get(ACCEPTED) == 3_600)
    driver.go_on()
    assert driver.ended()[0] == 0
    gate.start()
    all_came(backend, 3_600)
    eventually(lambda: len(backend.metrics()) == 60 * 200)
    values = [one.gauge.data_points[0].as_double for _, one in backend.metrics() if one.name == "metric.7"]
    assert values == sorted(values)
    assert node.metrics().get(ENQUEUE_FAILED, 0) == 0


def test_an_exporter_that_gives_up_would_lose_it(node: Collector, gate: Collector, backend: HttpCollector) -> None:
    """The test before sees a loss where there is one: with an end of trying, an outage that is longer takes all."""
    giving_up = {"exporters": {"otlp_grpc/gateway": {"retry_on_failure": {"max_elapsed_time": "1s"}}}}
    node.overrides = tiers.merged(node.overrides, giving_up)
    node.start()
    send_logs(node.otlp_grpc, ["one", "two"])
    eventually(lambda: node.metrics().get(SENT_FAILED) == 2)
    gate.start()
    send_logs(node.otlp_grpc, ["three"])
    assert backend.wait_for(1, 30)
    assert came(backend) == {"three"}


# queues that are full


def test_the_nodes_queue_is_full_and_the_spool_keeps_the_rest(
    drive: Drive, node: Collector, gate: Collector, backend: HttpCollector
) -> None:
    """It says no; `otelcol_exporter_enqueue_failed_*` counts what was sent in vain, and is no loss behind a spool."""
    node.env["QUEUE_MAX_BYTES"] = "200000"
    node.start()
    driver = drive("exits", 3_000)
    driver.heard()
    eventually(lambda: node.metrics().get(ENQUEUE_FAILED, 0) > 0)
    assert node.metrics()[ACCEPTED] < 3_000
    gate.start()
    all_came(backend, 3_000)


def test_the_nodes_queue_is_full_and_it_is_killed_and_nothing_is_lost(
    drive: Drive, node: Collector, gate: Collector, backend: HttpCollector
) -> None:
    """What was on its way is put back at the start, also into a queue that has no room."""
    node.env["QUEUE_MAX_BYTES"] = "200000"
    node.start()
    drive("exits", 3_000).heard()
    eventually(lambda: node.metrics().get(ENQUEUE_FAILED, 0) > 0)
    node.kill()
    node.start()
    gate.start()
    all_came(backend, 3_000)


@pytest.fixture
def small_disk(node: Collector) -> Iterator[Path]:
    """A disk of 1 MiB under the node's queue. Needs the right to mount."""
    path = Path(node.env["QUEUE_DIR"])
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "none", path], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("a full disk under the Collector is NOT tested here: it needs the right to mount; run as root")
    yield path
    node.kill()
    subprocess.run(["umount", "-l", path], check=True)


def test_the_disk_under_the_nodes_queue_is_full_and_the_spool_keeps_the_rest(
    drive: Drive, node: Collector, gate: Collector, backend: HttpCollector, small_disk: Path
) -> None:
    """It says no, as with a queue that is full; and what is in the queue can still be read, and is sent."""
    node.start()
    driver = drive("exits", 5_000)
    driver.heard()
    eventually(lambda: node.metrics().get(ENQUEUE_FAILED, 0) > 0)
    assert node.metrics()[ACCEPTED] < 5_000
    assert "no space left on device" in node.text()
    gate.start()
    all_came(backend, 5_000, 120)


def test_on_a_full_disk_a_kill_loses_at_most_what_was_on_its_way(
    drive: Drive, node: Collector, gate: Collector, backend: HttpCollector, small_disk: Path
) -> None:
    """At its start it takes that out of the file and cannot put it back; the log says so, and no counter does."""
    node.start()
    spool = drive("exits", 5_000).heard()["spool"]
    eventually(lambda: node.metrics().get(ENQUEUE_FAILED, 0) > 0)
    node.kill()
    node.start()
    gate.start()
    missing = few_are_missing(Path(spool), node, gate, backend, 5_000)
    said = ("Errors occurred while moving items", "Failed updating currently dispatched items")
    assert not missing or any(each in line for line in tiers.trouble(node) for each in said)


def test_killed_again_while_it_starts_it_loses_at_most_what_was_on_its_way(
    drive: Drive, node: Collector, gate: Collector, backend: HttpCollector
) -> None:
    """For a moment it holds that in memory alone, between taking it out of the file and putting it back."""
    node.start()
    spool = drive("exits", 2_000).heard()["spool"]
    eventually(lambda: node.metrics().get(ACCEPTED) == 2_000)
    node.kill()
    said = len(node.text())
    again = subprocess.Popen(
        node.command(), cwd=node.folder, env=node.environment(), stdout=node.log.open("ab"), stderr=subprocess.STDOUT
    )
    with again:
        eventually(lambda: "Fetching items left for dispatch" in node.text()[said:], poll_s=0.0005)
        again.kill()
    node.start()
    gate.start()
    few_are_missing(Path(spool), node, gate, backend, 2_000)


def few_are_missing(spool: Path, node: Collector, gate: Collector, backend: HttpCollector, count: int) -> set[str]:
    """The ids that are missing once nothing more comes: three batches at most, under way, next, and being filled."""
    batch = yaml.safe_load(node.config.read_text())["exporters"]["otlp_grpc/gateway"]["sending_queue"]["batch"]

    def nothing_waits() -> bool:
        # in the order of its way: what is gone from one is in the next
        in_spool = sum(each.pending for each in glance(spool).cursors.values())
        waiting = (in_spool, tiers.queued(node), tiers.queued(gate))
        assert waiting == (0, 0, 0)
        return bool(backend.records())

    eventually(nothing_waits, 90)
    size = sum(one.ByteSize() for _, one in backend.records()) / len(backend.records())
    request = OF_A_REQUEST * size  # a batch is sent when it has its least size, by the request that made it so
    bound = 3 * (batch["min_size"] + request) / size
    backend.wait_for(count, 5)
    missing = sent(backend, count) - came(backend)
    assert len(missing) <= bound < count / 4
    assert came(backend) <= sent(backend, count)
    return missing
