"""The real programs run, come back as they were, and hand on what is sent to them."""

from __future__ import annotations

import os
import re
import subprocess
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.exporter.otlp.proto.grpc import _log_exporter as grpc_logs
from opentelemetry.exporter.otlp.proto.grpc import metric_exporter as grpc_metrics
from opentelemetry.exporter.otlp.proto.grpc import trace_exporter as grpc_traces
from opentelemetry.exporter.otlp.proto.http import _log_exporter as http_logs
from opentelemetry.exporter.otlp.proto.http import metric_exporter as http_metrics
from opentelemetry.exporter.otlp.proto.http import trace_exporter as http_traces
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from tests.support.backends import Collector, NotReady, Programs, Prometheus, Server, Stack, eventually

RUN = "torchelastic.run.id"


def exporters(stack: Stack, protocol: str) -> tuple[Any, Any, Any]:
    """For logs, traces and metrics, of OpenTelemetry's own, to the stack's Collector."""
    if protocol == "grpc":
        kinds = grpc_logs.OTLPLogExporter, grpc_traces.OTLPSpanExporter, grpc_metrics.OTLPMetricExporter
        return tuple(kind(endpoint=stack.otlp_grpc, insecure=True) for kind in kinds)  # type: ignore[return-value]
    to = f"{stack.otlp_http}/v1"
    return (
        http_logs.OTLPLogExporter(endpoint=f"{to}/logs"),
        http_traces.OTLPSpanExporter(endpoint=f"{to}/traces"),
        http_metrics.OTLPMetricExporter(endpoint=f"{to}/metrics"),
    )


def send(stack: Stack, protocol: str, run: str) -> str:
    """One span, a log record in it and a counter, of a run; the trace's id."""
    logs, traces, metrics = exporters(stack, protocol)
    resource = Resource({"service.name": "smoke", "service.instance.id": run, "host.name": "train-7"})
    loggers = LoggerProvider(resource, shutdown_on_exit=False)
    loggers.add_log_record_processor(SimpleLogRecordProcessor(logs))
    tracers = TracerProvider(resource=resource, shutdown_on_exit=False)
    tracers.add_span_processor(SimpleSpanProcessor(traces))
    reader = PeriodicExportingMetricReader(metrics, export_interval_millis=3_600_000)
    meters = MeterProvider([reader], resource=resource, shutdown_on_exit=False)
    try:
        attributes: dict[str, str | int] = {RUN: run, "torchelastic.restart.count": 1}
        with tracers.get_tracer("smoke").start_as_current_span("torchelastic.round", attributes=attributes) as span:
            restarted = LogRecord(
                timestamp=time.time_ns(), severity_number=SeverityNumber.WARN, body="Restart 1 completed",
                event_name="torchelastic.restart.completed", attributes=attributes,
            )  # fmt: skip
            loggers.get_logger("smoke").emit(restarted)
        meters.get_meter("smoke").create_counter("torchelastic.restarts", unit="{restart}").add(2, {RUN: run})
        assert meters.force_flush()
    finally:
        for provider in (loggers, tracers, meters):
            provider.shutdown()
    return f"{span.get_span_context().trace_id:032x}"


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_what_is_sent_is_found_again_in_each_backend(stack: Stack, protocol: str) -> None:
    """The whole way, by each protocol: what other tests miss in a backend was then lost by us, not by the stack."""
    run = f"{protocol}-{uuid.uuid4().hex}"
    trace_id = send(stack, protocol, run)

    logs = stack.victorialogs
    event = logs.selector({"event_name": "torchelastic.restart.completed", RUN: run}, "smoke")
    ((_, body, fields),) = eventually(lambda: logs.query(event))
    assert body == "Restart 1 completed"
    assert fields["trace_id"] == trace_id
    assert fields["host.name"] == "train-7"
    assert fields["torchelastic.restart.count"] == "1"
    assert logs.stats(f"{event} | stats count() records") == [({}, 1.0)]
    assert "smoke" in logs.stream_fields()["service.name"]

    counter = f'torchelastic_restarts_total{{torchelastic_run_id="{run}"}}'
    ((series, value),) = eventually(lambda: stack.prometheus.query(counter))
    assert value == 2.0
    assert (series["job"], series["instance"], series["host_name"]) == ("smoke", run, "train-7")
    ((_, points),) = stack.prometheus.range(counter, time.time() - 60, time.time() + 5, 1)
    assert points[-1][1] == 2.0

    (found,) = eventually(lambda: stack.jaeger.trace(trace_id))
    assert (found.name, found.service, found.tags[RUN], found.parent_id) == ("torchelastic.round", "smoke", run, "")
    assert found.resource["host.name"] == "train-7"
    assert stack.jaeger.search("smoke", {RUN: run}) == [[found]]
    assert stack.jaeger.search("smoke", {RUN: "another"}) == []

    sent = eventually(lambda: sends(stack.collector))
    assert sent.keys() - {"otlp_http/loki"} == {"otlp_http/logs", "otlp_http/metrics", "otlp_grpc/traces"}


def sends(collector: Collector) -> dict[str, float]:
    """The number of items that each exporter has sent, once all three have."""
    sent = {
        has["exporter"]: n for name, has, n in collector.samples() if name.startswith("otelcol_exporter_sent_") and n
    }
    return sent if len(sent) >= 3 else {}


def test_prometheus_scrapes_the_collector(stack: Stack) -> None:
    """Telemetry's own loss is told by these numbers; an address that nobody answers at would look like no loss."""
    assert eventually(lambda: stack.prometheus.query('up{job="otelcol"} == 1'))
    assert eventually(lambda: stack.prometheus.query('{__name__=~"otelcol_process_uptime.*"}'))


def test_nothing_of_the_stack_listens_beyond_loopback(stack: Stack) -> None:
    """A test must not open a machine to its network, and two runs on one machine must not meet."""
    told = subprocess.run(["ss", "-Hltnp"], capture_output=True, text=True, check=True).stdout.splitlines()
    for server in (stack.collector, *stack.backends):
        assert server.process is not None
        at = [line.split()[3] for line in told if f"pid={server.process.pid}," in line]
        assert at, server.name
        assert {address.rpartition(":")[0] for address in at} == {"127.0.0.1"}, (server.name, at)


def test_each_program_says_its_pinned_version(programs: Programs) -> None:
    """What ran is what the go.mod files name; another one on PATH is a person's own choice and is not judged."""
    if not any("torchelastic-otel/backends" in str(path) for path in (programs.collector, programs.promtool)):
        pytest.skip("our own builds are NOT tested here: programs on PATH are used; take those off PATH")
    said = subprocess.run([programs.collector, "--version"], capture_output=True, text=True, check=True).stdout
    assert said.split() == ["otelcol-torchelastic", "version", "0.158.0"]
    for program in (programs.prometheus, programs.promtool):
        assert subprocess.run([program, "--version"], capture_output=True, check=False).returncode == 0
    for program, pinned in ((programs.victorialogs, "v1.52.2"), (programs.vmalert, "v1.151.0")):
        modules = subprocess.run(["go", "version", "-m", program], capture_output=True, text=True, check=True).stdout
        assert re.search(rf"^\tmod\tgithub.com/VictoriaMetrics/Victoria\w+\t{re.escape(pinned)}\t", modules, re.M)


def test_a_killed_backend_comes_back_as_it_was(programs: Programs, tmp_path: Path) -> None:
    """Outages are tested by killing backends: all they had taken must be there again, at the same address."""
    stack = Stack(tmp_path)
    try:
        trace_id = send(stack.start(), "grpc", "before")
        questions: dict[Server, Callable[[], object]] = {
            stack.victorialogs: lambda: stack.victorialogs.query('{service.name="smoke"}'),
            stack.prometheus: lambda: stack.prometheus.query("torchelastic_restarts_total"),
            stack.jaeger: lambda: stack.jaeger.trace(trace_id),
        }
        for server, ask in questions.items():
            before = eventually(ask)
            if server is stack.victorialogs:
                stack.victorialogs.save()
            server.kill()
            assert not server.running
            assert not server.is_ready()
            server.start()
            assert eventually(ask) == before
        send(stack, "grpc", "after")
        after = stack.victorialogs.selector({RUN: "after"}, "smoke")
        assert eventually(lambda: stack.victorialogs.query(after))
        assert eventually(lambda: stack.prometheus.query('torchelastic_restarts_total{torchelastic_run_id="after"}'))
        assert eventually(lambda: stack.jaeger.search("smoke", {RUN: "after"}))
        assert stack.collector.stop() == 0
        stack.collector.start()
        assert stack.collector.otlp_grpc == stack.otlp_grpc
    finally:
        stack.kill()
    assert not any(server.running for server in (*questions, stack.collector))


def test_a_program_that_does_not_start_says_why(programs: Programs, tmp_path: Path) -> None:
    """A fixture that fails with a bare timeout would cost an hour each time."""
    config = tmp_path / "prometheus.yaml"
    config.write_text("no_such_key: 1\n")
    with pytest.raises(NotReady, match="no_such_key"):
        Prometheus(tmp_path / "data", config).start()


def test_what_never_comes_is_told_with_the_last_answer() -> None:
    """A condition that is waited for in vain must say what it saw."""
    with pytest.raises(NotReady, match=r"last: \[\]"):
        eventually(list, deadline_s=0.0)
    with pytest.raises(NotReady, match="FileNotFoundError"):
        eventually(lambda: os.stat("no such file"), deadline_s=0.0)
