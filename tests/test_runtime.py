"""Install, record, deliver, uninstall: in this process, without torch, with the real exporters."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from opentelemetry.sdk._logs import LoggerProvider, ReadableLogRecord
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor

import torchelastic_otel
from torchelastic_otel import events, runtime, semconv
from torchelastic_otel.model.event import ElasticEvent


@pytest.fixture(autouse=True)
def _fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process in which nothing was installed, whose spool is the test's."""
    monkeypatch.setenv("TORCHELASTIC_OTEL_SPOOL_DIR", str(tmp_path))
    monkeypatch.setenv("OTEL_BLRP_SCHEDULE_DELAY", "10")
    monkeypatch.setattr(runtime, "_uninstalled", False)
    torchelastic_otel.finished_logs().clear()
    yield
    torchelastic_otel.uninstall()


def record(name: str, destination: str = "null") -> None:
    """Record an event by the drop-in."""
    events.record(events.Event(name=name, source=events.EventSource.WORKER, metadata={"run_id": "r"}), destination)


def told() -> list[str]:
    """Names of the events that the destination ``memory`` was told."""
    return [str(attributes(each)[semconv.EVENT_NAME]) for each in torchelastic_otel.finished_logs()]


def attributes(readable: ReadableLogRecord) -> dict[str, object]:
    """The attributes of a finished log record."""
    return dict(readable.log_record.attributes or {})


def install(*destinations: str, **options: object) -> runtime.Installation:
    """Install without torch."""
    return torchelastic_otel.install(*destinations, watch_torch=False, **options)  # type: ignore[arg-type]


def test_what_is_recorded_arrives_in_order_with_uid_and_resource() -> None:
    """The thinnest way through all rooms."""
    install("memory")
    for number in range(20):
        record(f"e{number}")
    assert torchelastic_otel.flush()
    assert told() == [f"e{number}" for number in range(20)]
    logs = torchelastic_otel.finished_logs()
    uids = [str(attributes(each)[semconv.LOG_RECORD_UID]) for each in logs]
    origin = uids[0].rpartition("-")[0]
    assert uids == [f"{origin}-{number}" for number in range(1, 21)]
    assert logs[0].resource.attributes[semconv.SERVICE_INSTANCE_ID] == origin
    assert logs[0].resource.attributes[semconv.PROCESS_PID] == os.getpid()


def test_a_spool_that_is_delivered_is_history_and_nobodys() -> None:
    """Nothing is left for an adopter after a clean end."""
    installation = install("memory")
    record("e")
    assert torchelastic_otel.flush()
    path = installation.status.spool
    assert path is not None
    assert path.exists()
    torchelastic_otel.uninstall()
    assert not path.exists()
    assert path.with_suffix(".delivered").exists()


def test_before_and_after_it_the_drop_in_is_as_torchs() -> None:
    """`null` is a NullHandler until something is configured, and again after uninstall."""
    before = dict(events.handlers._log_handlers)
    install("memory")
    assert events.handlers._log_handlers != before
    torchelastic_otel.uninstall()
    assert events.handlers._log_handlers == before


def test_a_second_install_returns_the_first_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    """Two ways in at once install once."""
    first = install("memory")
    assert install("file") is first
    assert "installed already" in caplog.text


def test_an_unknown_destination_is_one_error_and_nothing_is_installed() -> None:
    """At the line where the mistake is."""
    with pytest.raises(
        torchelastic_otel.UnknownDestinationError, match=r"unknown destination 'memry'.*known: .*memory"
    ):
        install("memry")
    assert runtime.current() is None


def test_a_bad_destination_in_the_environment_stops_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Telemetry settings never stop a job; what is right among them is used."""
    monkeypatch.setenv("TORCHELASTIC_OTEL_DESTINATIONS", "memry,memory")
    assert install().status.exporters == ("memory",)
    assert "unknown destination 'memry'" in caplog.text


class Collecting:
    """An exporter object that a program gives."""

    def __init__(self) -> None:
        self.names: list[object] = []

    def export(self, batch: list[ReadableLogRecord]) -> None:
        """Take a batch."""
        self.names += [attributes(each)[semconv.EVENT_NAME] for each in batch]

    def shutdown(self) -> None:
        """Nothing to do."""


def test_a_destination_registered_later_fans_out_to_objects_and_names() -> None:
    """`record(event, destination=NAME)` reaches NAME's exporters, each by its own cursor."""
    install("null")
    own = Collecting()
    torchelastic_otel.register_destination("audit", own, "memory")
    record("a", "audit")
    record("b", "null")
    assert torchelastic_otel.flush()
    assert own.names == told() == ["a"]
    torchelastic_otel.unregister_destination("audit")
    with pytest.raises(KeyError, match="audit"):
        record("c", "audit")


def test_sdk_reaches_the_applications_own_logger_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    """The application's provider is used, not replaced (promise 7)."""
    exporter = InMemoryLogRecordExporter()  # type: ignore[no-untyped-call]
    provider = LoggerProvider(shutdown_on_exit=False)
    provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    monkeypatch.setattr("torchelastic_otel.deliver.otel.application.get_logger_provider", lambda: provider)
    install("sdk")
    record("e")
    assert torchelastic_otel.flush()
    assert [attributes(each)[semconv.EVENT_NAME] for each in exporter.get_finished_logs()] == ["e"]


def test_redaction_comes_before_anything_is_kept(tmp_path: Path) -> None:
    """Promise 8: what a hook takes away is on no disk."""

    def redact(event: ElasticEvent) -> ElasticEvent:
        return replace(event, body=event.body.replace("hunter2", "***"))

    installation = install("null", redact=redact)
    record("the password is hunter2")
    assert installation.flush(10**10)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(b"the password is ***" in path.read_bytes() for path in files)
    bodies = b"".join(path.read_bytes() for path in files)
    assert b'"the password is hunter2\\"' not in bodies


def test_loglevel_never_silences_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """LOGLEVEL=WARNING silences every event of torch's."""
    monkeypatch.setenv("LOGLEVEL", "WARNING")
    install("memory")
    record("e")
    assert torchelastic_otel.flush()
    assert told() == ["e"]
