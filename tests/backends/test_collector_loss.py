"""What is lost when: a test for each line of the table in collector-config/README.md, ids counted at both ends.

The sender is our own library with its spool, in a process of its own; behind it are the real Collectors with the files
as they are shipped, and behind these a receiver that counts.
"""

from __future__ import annotations

import json
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml

from tests.support import collector_tiers as tiers
from tests.support.backends import Collector, NotReady, Programs, eventually
from tests.support.collector import OK, UNAVAILABLE, Answer, HttpCollector, attributes_of, items_of
from tests.support.drivers import Driver
from tests.support.otlp_senders import point, record, send_logs, send_metrics, send_spans, span, trace_id
from torchelastic_otel.spool.reader import read_spool

SENT_FAILED = "otelcol_exporter_send_failed_log_records"
ACCEPTED = "otelcol_receiver_accepted_log_records"
ENQUEUE_FAILED = "otelcol_exporter_enqueue_failed_log_records"
REFUSED = "otelcol_receiver_refused_log_records"
QUEUE_SIZE = "otelcol_exporter_queue_size"
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


def until(backend: HttpCollector, least: int) -> Callable[[Any], Answer]:
    """Takes requests until that many records came; so the rest is on its way, however slow who watches it is."""
    taken, lock = came(backend), threading.Lock()

    def judge(request: Any) -> Answer:
        with lock:
            if len(taken) >= least:
                return UNAVAILABLE
            taken.update(str(attributes_of(one.attributes)["log.record.uid"]) for _, one in items_of(request))
            return OK

    return judge


def all_came(backend: HttpCollector, count: int, deadline_s: float = 120) -> None:
    """Wait for all events of the one process, and for no other ids than its."""
    backend.wait_for(count, deadline_s)
    assert came(backend) == sent(backend, count)


class Sender:
    """Sends points and spans to a Collector, one after the other, each until it is taken, and goes on until the end.

    Attributes:
        taken: How many pairs of a point and a span were taken so far: ``metric.0`` with trace 1, and so on.
    """

    def __init__(self, node: Collector) -> None:
        self.taken = 0
        self._node = node
        self._ending, self._leaving = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._send, daemon=True)

    def __enter__(self) -> Sender:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._leaving.set()
        self._thread.join()

    def wait_for(self, more: int) -> None:
        """Wait until so many more were taken."""
        wanted = self.taken + more
        eventually(lambda: self.taken >= wanted, 90)

    def ended(self) -> int:
        """Have it end with a pair that is taken; how many it were."""
        self._ending.set()
        self._thread.join(90)
        assert not self._thread.is_alive()
        return self.taken

    def _send(self) -> None:
        while not self._ending.is_set():
            self._insist(send_metrics, [point(f"metric.{self.taken}", self.taken)])
            self._insist(send_spans, [span(self.taken + 1, 1)])
            if self._leaving.is_set():
                return
            self.taken += 1

    def _insist(self, send: Callable[[str, Sequence[Any]], None], items: Sequence[Any]) -> None:
        while not self._leaving.wait(0.005):
            try:
                return send(self._node.otlp_grpc, items)
            except grpc.RpcError:
                pass  # nobody is there, or nobody has room: again


def metrics_of(backend: HttpCollector) -> set[str]:
    """The metrics that came, by name."""
    return {one.name for _, one in backend.metrics()}


def traces_of(backend: HttpCollector) -> set[bytes]:
    """The traces of which something came."""
    return {one.trace_id for _, one in backend.spans()}


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


def test_the_nodes_collector_is_killed_and_neither_a_point_nor_a_span_is_lost(
    node: Collector, gate: Collector, backend: HttpCollector
) -> None:
    """The same for the other two signals, each with a queue of its own; the last time while it sends."""
    gate.env["TRACE_SAMPLE_PERCENT"] = "100"
    node.start()
    with Sender(node) as sender:
        for kill in range(3):
            sender.wait_for(100)
            if kill == 2:
                gate.start()
                eventually(lambda: backend.metrics() and backend.spans(), 60)
            node.kill()
            node.start()
        sender.wait_for(100)
        count = sender.ended()
    eventually(lambda: len(metrics_of(backend)) == count and len(traces_of(backend)) == count, 90)
    assert metrics_of(backend) == {f"metric.{number}" for number in range(count)}
    assert traces_of(backend) == {trace_id(number + 1) for number in range(count)}


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
    eventually(lambda: node.metrics().get(ACCEPTED, 0) >= 500)
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
        least = count * kill // (kills + 3)
        backend.behaviour = until(backend, least)
        assert backend.wait_for(least, 60)
        gate.kill()
        assert len(came(backend)) < count
        gate.start()
    backend.behaviour = OK
    all_came(backend, count)


def test_the_gateway_is_killed_in_the_middle_of_a_stream_and_no_point_is_lost(
    node: Collector, gate: Collector, backend: HttpCollector
) -> None:
    """Metrics go from disk to disk, as log records do. Of the spans that come beside them, the next test tells."""
    gate.start()
    node.start()
    with Sender(node) as sender:
        for _ in range(3):
            came_before = len(metrics_of(backend))
            eventually(lambda came_before=came_before: len(metrics_of(backend)) >= came_before + 50, 90)
            backend.behaviour = UNAVAILABLE  # so that something is there that could be lost
            eventually(lambda: gate.metrics(exporter="otlp_http/metrics")[QUEUE_SIZE] > 0)
            gate.kill()
            backend.behaviour = OK
            gate.start()
        count = sender.ended()
    eventually(lambda: len(metrics_of(backend)) == count, 90)
    assert metrics_of(backend) == {f"metric.{number}" for number in range(count)}


def test_the_gateway_is_killed_and_the_spans_that_wait_in_its_sampler_are_lost(
    node: Collector, gate: Collector, backend: HttpCollector
) -> None:
    """The one thing that is in memory: the table names it, and this test says that there is no more to it."""
    received = "otelcol_processor_tail_sampling_new_trace_id_received"
    gate.overrides = tiers.merged(gate.overrides, {"processors": {"tail_sampling": {"decision_wait": "10s"}}})
    gate.start()
    node.start()
    send_spans(node.otlp_grpc, [span(trace, 1, error=True) for trace in range(1, 11)])
    # what is still in the queue in front of the sampler would come again
    eventually(lambda: gate.metrics().get(received) == 10 and tiers.queued(gate) == 0)
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


@pytest.mark.parametrize("way", ["kill", "stop"])
def test_of_a_trace_that_goes_on_meanwhile_each_part_is_judged_by_itself(
    node: Collector, gate: Collector, backend: HttpCollector, way: str
) -> None:
    """A gateway that stops decides about what it has, and the next one knows nothing of it.

    So here the first part of a failed bring-up is left out, and the root with the error comes alone.
    """
    received = "otelcol_processor_tail_sampling_new_trace_id_received"
    gate.overrides = tiers.merged(gate.overrides, {"processors": {"tail_sampling": {"decision_wait": "60s"}}})
    gate.env["TRACE_SAMPLE_PERCENT"] = "0"
    gate.start()
    node.start()
    send_spans(node.otlp_grpc, [span(1, number, "torchelastic.rendezvous", round=0) for number in (1, 2)])
    eventually(lambda: gate.metrics().get(received) == 1)
    if way == "kill":
        gate.kill()
    else:
        assert gate.stop() == 0
    gate.overrides = tiers.merged(gate.overrides, SAMPLING)
    gate.start()
    send_spans(node.otlp_grpc, [span(1, 3, "torchelastic.round", error=True, round=0)])
    eventually(lambda: backend.spans())
    assert gate.stop() == 0
    assert [one.name for _, one in backend.spans()] == ["torchelastic.round"]


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
    eventually(lambda: node.metrics().get(ACCEPTED, 0) >= 3_600)
    driver.go_on()
    assert driver.ended()[0] == 0
    gate.start()
    all_came(backend, 3_600)
    eventually(lambda: len(backend.metrics()) >= 60 * 200)
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
    node.restart()  # its connection, which has failed, is tried again ever more rarely, and "three" has one second
    send_logs(node.otlp_grpc, ["three"])
    assert backend.wait_for(1, 60)
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


def test_the_gateways_queue_is_full_and_the_nodes_keep_the_rest(
    drive: Drive, node: Collector, gate: Collector, backend: HttpCollector
) -> None:
    """It says no, and what it says no to stays where it is: in the queues of the nodes."""
    port = backend.port
    backend.stop()
    gate.env["QUEUE_MAX_BYTES"] = "300000"  # its batches are of 262144
    gate.start()
    node.start()
    drive("exits", 3_000).heard()
    eventually(lambda: gate.metrics().get(ENQUEUE_FAILED, 0) > 0)
    eventually(lambda: node.metrics().get(ACCEPTED, 0) >= 3_000)
    eventually(lambda: gate.metrics()[REFUSED] > 0)
    assert tiers.queued(node) > 0
    backend.start(port)
    all_came(backend, 3_000)
    assert node.metrics().get(SENT_FAILED, 0) == gate.metrics().get(SENT_FAILED, 0) == 0


def test_a_full_queue_takes_no_more_of_the_disk_than_three_times_its_bound(node: Collector) -> None:
    """QUEUE_MAX_BYTES counts what was sent; the file has pages, of which small requests fill less than half.

    Here each is one record of a few hundred bytes, as small as they come.
    """
    bound = 4_000_000
    node.env["QUEUE_MAX_BYTES"] = str(bound)
    node.overrides = tiers.merged(node.overrides, {"extensions": {"file_storage": {"fsync": False}}})
    node.start()

    def is_full(number: int) -> bool:
        try:
            send_logs(node.otlp_grpc, [record(str(number), padding="x" * 200)])
        except grpc.RpcError:
            return True
        return False

    with ThreadPoolExecutor(8) as pool:
        assert any(pool.map(is_full, range(20_000)))
    file = max(Path(node.env["QUEUE_DIR"]).iterdir(), key=lambda path: path.stat().st_size)
    assert tiers.queued(node) > 0.99 * bound
    assert bound < file.stat().st_blocks * 512 < 3 * bound


@contextmanager
def small_disk_under(collector: Collector) -> Iterator[Path]:
    """A disk of 1 MiB under a Collector's queue. Needs the right to mount."""
    path = Path(collector.env["QUEUE_DIR"])
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "none", path], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("a full disk under the Collector is NOT tested here: it needs the right to mount; run as root")
    try:
        yield path
    finally:
        collector.kill()
        subprocess.run(["umount", "-l", path], check=True)


@pytest.fixture
def small_disk(node: Collector) -> Iterator[Path]:
    """Such a one under the node's."""
    with small_disk_under(node) as path:
        yield path


def test_the_disk_under_the_gateways_queue_is_full_and_the_nodes_keep_what_it_says_no_to(
    drive: Drive, node: Collector, gate: Collector, backend: HttpCollector
) -> None:
    """All of it is taken in the end. What the gateway had taken before is another matter: see the table.

    Before it sends something it makes a note of it in the file; where that finds no room it leaves it out, and whether
    it does is chance. So nothing is said here of how much arrives, but that it is nothing else.
    """
    port = backend.port
    backend.stop()
    with small_disk_under(gate):
        gate.start()
        node.start()
        drive("exits", 5_000).heard()
        eventually(lambda: gate.metrics().get(ENQUEUE_FAILED, 0) > 0)
        eventually(lambda: "no space left on device" in gate.text())
        eventually(lambda: node.metrics().get(ACCEPTED, 0) >= 5_000)
        backend.start(port)
        eventually(lambda: node.metrics().get("otelcol_exporter_sent_log_records", 0) >= 5_000, 120)
        eventually(lambda: tiers.queued(node) == tiers.queued(gate) == 0, 120)
        assert node.metrics().get(SENT_FAILED, 0) == 0
        assert backend.wait_for(1, 60)
        assert came(backend) <= sent(backend, 5_000)


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
    eventually(lambda: node.metrics().get(ACCEPTED, 0) >= 2_000)
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
        in_spool = sum(each.pending for each in read_spool(spool).cursors.values())
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


# a file that is broken


def broken(node: Collector, damage: Callable[[bytearray], None]) -> Path:
    """The queue of a Collector that waited with 500 log records, after something has damaged the file."""
    node.start()
    for first in range(0, 500, 50):
        send_logs(node.otlp_grpc, [str(number) for number in range(first, first + 50)])
    node.kill()
    (file,) = (path for path in Path(node.env["QUEUE_DIR"]).iterdir() if path.name.endswith("_logs"))
    content = bytearray(file.read_bytes())
    damage(content)
    file.write_bytes(content)
    return file


PAGE = 4096
"""Of the file, which is bbolt's: two pages say what is in force, all others begin with their number and their kind."""
KIND = struct.Struct("<H")
LEAF, FREE_LIST = 0x02, 0x10


def wrong_kind(content: bytearray) -> None:
    """A page that is in use says that it is something else."""
    for at in range(2 * PAGE, len(content), PAGE):
        if KIND.unpack_from(content, at + 8) == (LEAF,):
            KIND.pack_into(content, at + 8, FREE_LIST)


def zeroed(content: bytearray) -> None:
    """Pages that never came to the disk."""
    content[2 * PAGE :] = bytes(len(content) - 2 * PAGE)


def without_a_head(content: bytearray) -> None:
    """The same of the two that say what is in force."""
    content[: 2 * PAGE] = bytes(2 * PAGE)


def test_a_file_with_a_wrong_page_is_set_aside_and_it_starts(
    node: Collector, gate: Collector, backend: HttpCollector
) -> None:
    """`recreate`: what waited is lost, the log says so, and what comes next is kept and sent."""
    file = broken(node, wrong_kind)
    node.start()
    assert any("Database corruption detected" in line for line in tiers.trouble(node))
    assert [path.name for path in file.parent.glob("*_logs.*.backup")] != []
    gate.start()
    send_logs(node.otlp_grpc, ["next"])
    assert backend.wait_for(1, 60)
    assert came(backend) == {"next"}


@pytest.mark.parametrize("damage", [zeroed, without_a_head])
def test_a_file_that_is_worse_keeps_it_from_starting_until_it_is_moved_away(
    node: Collector, gate: Collector, backend: HttpCollector, damage: Callable[[bytearray], None]
) -> None:
    """What `recreate` does not see: who runs it has to know what to do."""
    file = broken(node, damage)
    with pytest.raises(NotReady, match="ended with status"):
        node.start()
    assert "invalid database" in node.text() or "go.etcd.io/bbolt" in node.text()
    file.rename(file.with_suffix(".broken"))
    node.start()
    gate.start()
    send_logs(node.otlp_grpc, ["next"])
    assert backend.wait_for(1, 60)
    assert came(backend) == {"next"}
