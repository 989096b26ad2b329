"""Measures what sizing needs, and writes it into collector-config/README.md: ``python benchmarks/collector.py``.

What one node makes: a real job of two nodes on this machine, heartbeats as metrics, its telemetry kept by a receiver.
What that costs: the same telemetry, many times over, through the real Collectors with agent.yaml and gateway.yaml.
``--print`` writes nothing. It takes about two minutes; the processor time it says is the Collectors' own
(``/proc``), so that a busy machine blurs it little.
"""

from __future__ import annotations

import argparse
import datetime
import gzip
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from processes import environment

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT))

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest  # noqa: E402
from opentelemetry.proto.collector.logs.v1.logs_service_pb2_grpc import LogsServiceStub  # noqa: E402

from tests.support import collector_tiers as tiers  # noqa: E402
from tests.support.backends import Collector, eventually  # noqa: E402
from tests.support.collector import HttpCollector, signal_of  # noqa: E402
from tests.support.relay import Relay  # noqa: E402
from torchelastic_otel.testing.otlp_receiver import OtlpReceiver, items_of  # noqa: E402

README = ROOT / "collector-config" / "README.md"
BEGIN, END = "<!-- sizing: begin -->", "<!-- sizing: end -->"
METRICS_EVERY_S = 5.0
DEFAULT_EVERY_S = 60.0
"""What ``OTEL_METRIC_EXPORT_INTERVAL`` is where nobody says otherwise."""
RECORDS_OF_A_REQUEST = 100
FLEETS = (100, 1_000, 10_000)
RESTARTS_AN_HOUR = 1
WORKER = """
import os, sys, time
time.sleep(11)
mark = sys.argv[1]
if os.environ["RANK"] == "2" and not os.path.exists(mark):
    open(mark, "w").close()
    raise RuntimeError("CUDA error: an illegal memory access was encountered")
time.sleep(11)
"""


@dataclass
class Made:
    """What a job made on one node: how many items, and their bytes as OTLP."""

    items: int = 0
    size: int = 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--print", action="store_true", help="write nothing")
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="torchelastic-otel-bench-", ignore_cleanup_errors=True) as name:
        place = Path(name)
        requests = job(place)
        say("the job is over")
        text = report(node(requests), costs(place, requests))
    print(text)
    if not asked.print:
        before, _, rest = README.read_text().partition(BEGIN)
        README.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}")
    return 0


def say(what: str) -> None:
    """A line for who waits."""
    print(f"collector: {what}", file=sys.stderr, flush=True)


def job(place: Path) -> list[Any]:
    """Run two agents with two workers each, one of which fails once; every request that they send."""
    with OtlpReceiver() as receiver:
        (place / "train.py").write_text(WORKER)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        agents = []
        for number in range(2):
            environ = environment(
                place,
                OTEL_EXPORTER_OTLP_ENDPOINT=receiver.http_endpoint,
                OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
                OTEL_METRIC_EXPORT_INTERVAL=str(int(METRICS_EVERY_S * 1000)),
                OTEL_RESOURCE_ATTRIBUTES=f"host.name=gpu-node-{number + 17}",
                TORCHELASTIC_OTEL_SPOOL_DIR=str(place),
            )
            command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=2"]
            command += ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", "--rdzv-id=llama-finetune"]
            command += ["--max-restarts=1", "--monitor-interval=0.5", str(place / "train.py"), str(place / "failed")]
            errors = (place / f"agent-{number}.stderr").open("w")
            agents.append(subprocess.Popen(command, env=environ, cwd=place, stderr=errors, stdout=errors))
        for agent in agents:
            assert agent.wait(150) == 0, (place / "agent-0.stderr").read_text()[-3000:]
        return [request.message for request in receiver.requests]


def node(requests: Sequence[Any]) -> dict[str, Made]:
    """What one node makes: of logs and spans in the whole run (start, one restart, end), of metrics in one export."""
    made = {signal: Made() for signal in ("logs", "traces", "metrics")}
    exports = []
    for request in requests:
        signal = signal_of(request)
        if signal == "metrics":
            exports.append(Made(sum(points(metric) for _, metric in items_of(request)), request.ByteSize()))
        else:
            made[signal].items += len(items_of(request))
            made[signal].size += request.ByteSize()
    for signal in ("logs", "traces"):
        made[signal] = Made(made[signal].items // 2, made[signal].size // 2)
    made["metrics"] = max(exports, key=lambda export: export.size)
    return made


def points(metric: Any) -> int:
    """Data points of a metric."""
    return len(getattr(metric, metric.WhichOneof("data")).data_points)


@dataclass(frozen=True)
class Costs:
    """What many records cost.

    Attributes:
        records: How many were sent.
        size: Bytes of one as OTLP.
        node_cpu_s: Processor seconds of the node's Collector for 1,000, taken, kept on disk and sent.
        gateway_cpu_s: Of the gateway, likewise.
        queue: Bytes on disk for one that waits.
        packed: Bytes of one where the job's own requests are packed, each by itself.
        wire: Bytes between node and gateway for one (gzip, TLS).
        fsync_rate: Requests a second that the node's Collector takes, eight senders at once; and without fsync.
    """

    records: int
    size: float
    node_cpu_s: float
    gateway_cpu_s: float
    queue: float
    packed: float
    wire: float
    fsync_rate: tuple[float, float]


def costs(place: Path, requests: Sequence[Any], count: int = 20_000) -> Costs:
    """Send the job's records again and again, first with the gateway away, then let them through."""
    bodies = templates(requests)
    size = sum(body.ByteSize() for body in bodies) / len(bodies) / RECORDS_OF_A_REQUEST
    shared = tiers.Secrets.make(place / "secrets")
    with HttpCollector() as backend:
        gate = tiers.gateway(place / "gateway", backend, shared)
        relay = Relay(int(tiers.nodes_of(gate).rpartition(":")[2]))  # until it is entered nobody answers there
        agent = tiers.agent(place / "agent", f"127.0.0.1:{relay.port}", shared)
        with agent:
            start = cpu_s(agent)
            send(agent, bodies, count // RECORDS_OF_A_REQUEST)
            queue = max(path.stat().st_blocks * 512 for path in Path(agent.env["QUEUE_DIR"]).iterdir())
            with gate, relay:
                gate_start = cpu_s(gate)
                sent = "otelcol_exporter_sent_log_records"
                eventually(lambda: gate.metrics(exporter="otlp_http/logs").get(sent) == count, 90)
                node_cpu, gate_cpu, wire = cpu_s(agent) - start, cpu_s(gate) - gate_start, relay.to_server
    say("the records came through")
    return Costs(
        count, size, node_cpu / count * 1e3, gate_cpu / count * 1e3, queue / count, packed(requests), wire / count,
        (rate(place / "fsync", shared, bodies, fsync=True), rate(place / "no-fsync", shared, bodies, fsync=False)),
    )  # fmt: skip


def packed(requests: Sequence[Any]) -> float:
    """Bytes of a log record in the job's own requests, gzipped."""
    logs = [request for request in requests if signal_of(request) == "logs"]
    size = sum(len(gzip.compress(request.SerializeToString())) for request in logs)
    return size / sum(len(items_of(request)) for request in logs)


def templates(requests: Sequence[Any]) -> list[ExportLogsServiceRequest]:
    """Requests of a hundred records each, made of the job's own, under their own resources."""
    logs = [request for request in requests if signal_of(request) == "logs"]
    made = []
    for request in logs:
        records = [record for _, record in items_of(request)]
        body = ExportLogsServiceRequest()
        body.resource_logs.add().resource.CopyFrom(request.resource_logs[0].resource)
        scope = body.resource_logs[0].scope_logs.add()
        scope.scope.CopyFrom(request.resource_logs[0].scope_logs[0].scope)
        scope.log_records.extend((records * RECORDS_OF_A_REQUEST)[:RECORDS_OF_A_REQUEST])
        made.append(body)
    return made


def send(collector: Collector, bodies: Sequence[Any], count: int, at_once: int = 8) -> float:
    """So many requests, and how many a second were taken; each record with an id of its own."""
    with grpc.insecure_channel(collector.otlp_grpc.removeprefix("http://")) as channel:
        export: Callable[..., Any] = LogsServiceStub(channel).Export

        def one(number: int) -> None:
            body = ExportLogsServiceRequest()
            body.CopyFrom(bodies[number % len(bodies)])
            for each, record in enumerate(body.resource_logs[0].scope_logs[0].log_records):
                (uid,) = (pair for pair in record.attributes if pair.key == "log.record.uid")
                uid.value.string_value = f"{os.urandom(16).hex()}-{each}"
            export(body, timeout=60)

        began = time.monotonic()
        with ThreadPoolExecutor(at_once) as pool:
            list(pool.map(one, range(count)))
        return count / (time.monotonic() - began)


def rate(place: Path, shared: tiers.Secrets, bodies: Sequence[Any], *, fsync: bool) -> float:
    """Requests of ten records a second that a Collector with agent.yaml takes onto its disk, the gateway away."""
    small = []
    for body in bodies:
        less = ExportLogsServiceRequest()
        less.CopyFrom(body)
        del less.resource_logs[0].scope_logs[0].log_records[10:]
        small.append(less)
    away = "127.0.0.1:9"
    overrides = {"extensions": {"file_storage": {"fsync": fsync}}}
    with tiers.agent(place, away, shared, overrides=overrides) as agent:
        send(agent, small, 50)
        return send(agent, small, 1_000)


def cpu_s(collector: Collector) -> float:
    """Processor seconds of a Collector so far, user and system."""
    assert collector.process is not None
    fields = Path(f"/proc/{collector.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def report(made: dict[str, Made], cost: Costs) -> str:
    """The part of the README."""
    now = datetime.datetime.now(datetime.timezone.utc)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    per_hour = 3600 / DEFAULT_EVERY_S
    logs, spans, metrics = made["logs"], made["traces"], made["metrics"]
    hour = logs.size + spans.size + metrics.size * per_hour
    lines = [
        f"Measured by `benchmarks/collector.py` on {now:%Y-%m-%d}: {os.cpu_count()} cores, {memory:.0f} GiB.",
        "",
        "| one node, measured | |",
        "|---|---|",
        f"| a run with a start, one restart and an end | {logs.items} log records, {logs.size / 1e3:.1f} kB;"
        f" {spans.items} spans, {spans.size / 1e3:.1f} kB |",
        f"| one export of metrics, each {DEFAULT_EVERY_S:.0f} s by default, of the job reporter:"
        f" other agents have less | {metrics.items} points,"
        f" {metrics.size / 1e3:.1f} kB |",
        f"| so an hour with {RESTARTS_AN_HOUR} restart | {hour / 1e6:.2f} MB of OTLP, of it"
        f" {metrics.size * per_hour / hour:.0%} metrics |",
        f"| a log record ({cost.records:,} of them) | {cost.size:.0f} B of OTLP, {cost.queue:.0f} B on the disk where"
        f" it waits; {cost.packed:.0f} B where each request of the job is packed by itself (gzip) |",
        f"| the same between node and gateway (gzip, TLS) | {cost.wire:.0f} B: a bound from below, since here the job's"
        " few records come over and over and pack too well |",
        f"| the node's Collector, for 1,000 records taken, kept and sent | {cost.node_cpu_s * 1e3:.0f} ms of processor"
        " time |",
        f"| the gateway, likewise | {cost.gateway_cpu_s * 1e3:.0f} ms |",
        f"| requests a second onto the disk, eight senders | {cost.fsync_rate[0]:,.0f} with `fsync` (agent.yaml),"
        f" {cost.fsync_rate[1]:,.0f} without |",
        "",
        "**Extrapolated from these, not measured**; a point of a metric is taken to cost what a log record costs:",
        "",
        "| nodes | items/s, even | OTLP an hour | gateway cores, even | items of a restart of all at once | and gateway"
        " core-seconds for it | disk for an hour without a backend |",
        "|---|---|---|---|---|---|---|",
    ]
    for nodes in FLEETS:
        even = nodes * metrics.items / DEFAULT_EVERY_S
        burst = nodes * (logs.items + spans.items)
        disk = nodes * hour * cost.queue / cost.size
        lines.append(
            f"| {nodes:,} | {even:,.0f} | {nodes * hour / 1e9:.2f} GB | {even * cost.gateway_cpu_s / 1e3:.2f} |"
            f" {burst:,} | {burst * cost.gateway_cpu_s / 1e3:.1f} | {disk / 1e9:.1f} GB |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
