"""Which exporter a name stands for, and what is said where it cannot be had."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Sequence
from typing import Any
from unittest import mock

import pytest
from opentelemetry.sdk._logs.export import (
    ConsoleLogRecordExporter,
    InMemoryLogRecordExporter,
    LogRecordExportResult,
)
from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, InMemoryMetricReader
from opentelemetry.sdk.trace.export import ConsoleSpanExporter

from tests.support.collector import GrpcCollector, HttpCollector
from tests.support.senders import SECOND_NS, environment, sender_by, user_draws
from tests.support.stored_events import ORIGIN, deliveries
from torchelastic_otel.errors import ExporterError
from torchelastic_otel.export.destinations import Exporter
from torchelastic_otel.export.otel import factory, otlp
from torchelastic_otel.export.otel.environment import protocol, timeout_ns
from torchelastic_otel.export.otel.factory import known_exporters, make_sender
from torchelastic_otel.export.otel.generic import GenericSender
from torchelastic_otel.export.otel.grpc import GrpcSender
from torchelastic_otel.export.otel.http import HttpSender
from torchelastic_otel.export.result import Disposition
from torchelastic_otel.model.signals import Signal

GRPC_FOR_LOGS = {"OTEL_EXPORTER_OTLP_LOGS_PROTOCOL": "grpc"}


def sender_for(exporter: Any, signal: Signal = Signal.LOGS) -> Any:
    """The sender of an exporter object."""
    environ = dict.fromkeys(("OTEL_BLRP_EXPORT_TIMEOUT", "OTEL_BSP_EXPORT_TIMEOUT"), "5000")
    return make_sender(Exporter(type(exporter).__name__, exporter, signal), environ)


def test_installed_exporters_are_known_and_asking_imports_none_of_them() -> None:
    """Agent start: exporters cost 170 ms and 16 MiB, and load off the main thread."""
    code = (
        "import sys; from torchelastic_otel.export.otel.factory import known_exporters; print(known_exporters());"
        "loaded = {'grpc', 'requests', 'urllib3', 'google.protobuf'} & set(sys.modules); assert not loaded, loaded"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {"console", "otlp", "otlp_proto_grpc", "otlp_proto_http"} <= set(ast.literal_eval(done.stdout))
    assert known_exporters() == sorted(ast.literal_eval(done.stdout))


@pytest.mark.parametrize(
    ("name", "variables", "kind"),
    [
        ("otlp", {}, GrpcSender),
        ("otlp", {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, HttpSender),
        ("otlp", {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf", **GRPC_FOR_LOGS}, GrpcSender),
        ("otlp", {"OTEL_EXPORTER_OTLP_LOGS_PROTOCOL": "", "OTEL_EXPORTER_OTLP_PROTOCOL": "HTTP/protobuf"}, HttpSender),
        ("otlp_proto_grpc", {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, GrpcSender),
        ("otlp_proto_http", {}, HttpSender),
        ("console", {}, GenericSender),
    ],
    ids=str,
)
def test_a_name_and_a_protocol_make_the_right_sender(name: str, variables: dict[str, str], kind: type) -> None:
    """Names mean what they mean in OpenTelemetry Python."""
    with sender_by(variables, name=name) as sender:
        assert type(sender) is kind


@pytest.mark.parametrize(("value", "used"), [("http/json", "http/protobuf"), ("thrift", "grpc")])
def test_a_protocol_that_there_is_not_is_named_and_replaced(value: str, used: str) -> None:
    """The warning says what was given, what is allowed, and what is used."""
    said: list[str] = []
    assert protocol({"OTEL_EXPORTER_OTLP_PROTOCOL": value}, said.append) == used
    assert said == [
        f"OTEL_EXPORTER_OTLP_PROTOCOL={value!r} is not allowed; allowed: grpc or http/protobuf; using {used}"
    ]


@pytest.mark.parametrize("variable", ["OTEL_EXPORTER_OTLP_TIMEOUT", "OTEL_EXPORTER_OTLP_LOGS_TIMEOUT"])
@pytest.mark.parametrize("collector_type", [HttpCollector, GrpcCollector], ids=["http", "grpc"])
@pytest.mark.parametrize("value", ["10000", "10s", "-1", "0", "nan", "inf", ""])
def test_no_timeout_setting_stops_a_delivery(variable: str, collector_type: Any, value: str) -> None:
    """The gRPC exporter raises on `10s`, and takes `10000`, milliseconds to the specification, for three hours."""
    said: list[str] = []
    with collector_type() as collector, sender_by({**collector.env(), variable: value}, warnings=said) as sender:
        assert sender.send(deliveries(1)).disposition is Disposition.DELIVERED
    assert [variable in text for text in said] == [True] * (value != "")


@pytest.mark.parametrize(
    ("value", "seconds", "warned"),
    [
        ("5", 5, ""),
        ("0.25", 0.25, ""),
        ("600", 600, ""),
        ("601", 600, "milliseconds?"),
        ("10000", 600, "milliseconds?"),
        ("10s", 10, "allowed: seconds above 0"),
        ("0", 10, "allowed: seconds above 0"),
        ("nan", 10, "allowed: seconds above 0"),
        ("inf", 10, "allowed: seconds above 0"),
        ("", 10, ""),
    ],
)
def test_a_timeout_is_in_seconds_bounded_and_said(value: str, seconds: float, warned: str) -> None:
    """Users of OpenTelemetry Python rely on seconds; above ten minutes it is a mistake."""
    said: list[str] = []
    assert timeout_ns({"OTEL_EXPORTER_OTLP_TIMEOUT": value}, said.append) == int(seconds * SECOND_NS)
    assert len(said) == bool(warned)
    assert warned in "".join(said)


def test_a_compression_that_there_is_not_is_named_and_none_is_used() -> None:
    """The gRPC exporter raises on it."""
    said: list[str] = []
    bad = {"OTEL_EXPORTER_OTLP_COMPRESSION": "brotli"}
    with GrpcCollector() as collector, sender_by({**collector.env(), **bad}, warnings=said) as sender:
        assert sender.send(deliveries(1)).disposition is Disposition.DELIVERED
    assert said == ["OTEL_EXPORTER_OTLP_COMPRESSION='brotli' is not allowed; allowed: none, gzip, deflate; using none"]


@pytest.mark.parametrize("name", ["otpl", "none", ""])
def test_an_unknown_exporter_is_an_error_that_lists_the_known(name: str) -> None:
    """Said at start, in one line."""
    with pytest.raises(ExporterError, match="is not installed; known: console, otlp, ") as raised:
        make_sender(Exporter(name), {}, pytest.fail)
    assert raised.value.name == name
    assert "\n" not in str(raised.value)


def with_entry_point(monkeypatch: pytest.MonkeyPatch, group: str, made: Any) -> None:
    """One more exporter, named `extra`, in that group."""

    def find(**selection: str) -> list[Any]:
        match = selection == {"group": group, "name": "extra"}
        return [mock.Mock(load=lambda: made)] if match else []

    for module in (factory, otlp):
        monkeypatch.setattr(module, "entry_points", find)


def test_an_exporter_of_another_signal_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """`prometheus` is a reader: it would never get a record."""
    with_entry_point(monkeypatch, "opentelemetry_metrics_exporter", InMemoryMetricReader)
    with pytest.raises(ExporterError, match="exporter 'extra': is of opentelemetry_metrics_exporter, not for logs"):
        make_sender(Exporter("extra"), {}, pytest.fail)


@pytest.mark.parametrize(
    "made", [InMemoryMetricReader(), ConsoleMetricExporter(), ConsoleSpanExporter(), object(), int]
)
def test_what_is_no_push_exporter_of_logs_is_refused(made: Any) -> None:
    """An instance is judged like a name."""
    with pytest.raises(ExporterError):
        sender_for(made)


def test_a_reader_is_refused_by_name_and_not_even_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """`OTEL_METRICS_EXPORTER=prometheus`: its reader would open a port in every agent."""

    class Prometheus(InMemoryMetricReader):
        def __init__(self) -> None:
            raise AssertionError("made")

    with_entry_point(monkeypatch, "opentelemetry_metrics_exporter", Prometheus)
    with pytest.raises(ExporterError, match=r"exporter 'extra': is a metric reader, .* give a push exporter, for"):
        make_sender(Exporter("extra", signal=Signal.METRICS), {}, pytest.fail)


@pytest.mark.parametrize(
    ("made", "signal"),
    [
        (ConsoleLogRecordExporter, Signal.LOGS),
        (ConsoleSpanExporter, Signal.TRACES),
        (ConsoleMetricExporter, Signal.METRICS),
    ],
)
def test_an_exporter_of_each_signal_is_made_by_its_name_and_takes_no_other(made: Any, signal: Signal) -> None:
    """`console` is three exporters, one of each signal."""
    sender = make_sender(Exporter("console", signal=signal), {}, pytest.fail)
    assert type(sender.exporter) is made
    assert sender_for(made(), signal).projection.signal is signal
    for other in set(Signal) - {signal}:
        with pytest.raises(ExporterError, match=f"exports {signal.value}; give an exporter of {other.value}"):
            sender_for(made(), other)


def test_an_otlp_exporter_that_a_program_made_is_observed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program's own OTLPSpanExporter: its responses are seen like those of ours."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    sender = sender_for(OTLPSpanExporter(), Signal.TRACES)
    assert type(sender) is HttpSender
    sender.close()


def test_a_constructor_that_fails_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such an exporter is off with one warning, which says why."""

    def fails() -> None:
        raise RuntimeError("no\nlicence")

    with_entry_point(monkeypatch, "opentelemetry_logs_exporter", fails)
    with pytest.raises(ExporterError) as raised:
        make_sender(Exporter("extra"), {}, pytest.fail)
    assert str(raised.value) == "exporter 'extra': its constructor failed: RuntimeError: no licence"


def test_an_installed_exporter_gets_the_records(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any entry point of the group is a destination."""
    memory = InMemoryLogRecordExporter()
    with_entry_point(monkeypatch, "opentelemetry_logs_exporter", lambda: memory)
    sender = make_sender(Exporter("extra"), {}, pytest.fail)
    assert sender.send(deliveries(2)).disposition is Disposition.DELIVERED
    uids = [(item.log_record.attributes or {})["log.record.uid"] for item in memory.get_finished_logs()]
    assert uids == [f"{ORIGIN.id}-1", f"{ORIGIN.id}-2"]


def test_the_console_exporter_takes_a_record_without_a_time(capsys: pytest.CaptureFixture[str]) -> None:
    """OpenTelemetry's own exporters must not stumble over what torch does not say."""
    sender = sender_for(ConsoleLogRecordExporter(out=sys.stdout))
    assert sender.send(deliveries(1)).disposition is Disposition.DELIVERED
    assert "torchelastic.rendezvous.joined" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("answer", "disposition"),
    [
        (LogRecordExportResult.SUCCESS, Disposition.DELIVERED),
        (None, Disposition.DELIVERED),
        (LogRecordExportResult.FAILURE, Disposition.RETRY),
        (False, Disposition.RETRY),
        (ValueError("bad record"), Disposition.REJECTED),
        (ConnectionResetError(104, "reset"), Disposition.RETRY),
        (TimeoutError(), Disposition.RETRY),
    ],
    ids=repr,
)
def test_what_any_other_exporter_says_is_taken_for_what_it_can_mean(answer: Any, disposition: Disposition) -> None:
    """Without a response to look at; but a connection that broke is no record's fault."""

    class Exporter:
        def export(self, batch: Sequence[Any]) -> Any:
            if isinstance(answer, Exception):
                raise answer
            return answer

    sender = sender_for(Exporter())
    assert sender.send(deliveries(1)).disposition is disposition
    sender.cancel()
    sender.close()


@pytest.mark.parametrize("collector_type", [HttpCollector, GrpcCollector], ids=["http", "grpc"])
def test_an_otlp_exporter_given_as_an_instance_is_observed_and_still_its_owner_s(collector_type: Any) -> None:
    """The user's own use of it, on another thread, sampler its results, its logs and its retries."""
    from tests.support.collector import BAD_REQUEST

    with collector_type() as collector, environment(collector.env()):
        if collector_type is HttpCollector:
            from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter as Exporter
        else:
            from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter as Exporter  # type: ignore
        exporter = Exporter()
        sender = sender_for(exporter)
        collector.behaviour = BAD_REQUEST
        assert sender.send(deliveries(1)).disposition is Disposition.REJECTED
        with user_draws():
            assert exporter.export([]) is LogRecordExportResult.FAILURE
        sender.close()


def test_the_session_of_a_credential_provider_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER: clouds sign requests this way."""
    import requests

    session = requests.Session()
    session.headers["x-signed"] = "yes"
    group = "opentelemetry_otlp_credential_provider"
    with_entry_point(monkeypatch, group, lambda: session)
    variables = {"OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER": "extra"}
    with HttpCollector() as collector, sender_by({**collector.env(), **variables}) as sender:
        assert sender.send(deliveries(1)).disposition is Disposition.DELIVERED
        assert collector.headers[0]["x-signed"] == "yes"


def test_a_credential_provider_that_is_not_installed_is_an_exporter_error() -> None:
    """Sending without the credentials that were asked for would be worse."""
    variables = {"OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER": "cloud"}
    with environment(variables), pytest.raises(ExporterError, match="credential provider 'cloud' is not installed"):
        make_sender(Exporter("otlp_proto_http"), variables, pytest.fail)
