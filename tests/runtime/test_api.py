"""Install, record, deliver, uninstall: in this process, without torch, with the real exporters."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from opentelemetry.sdk._logs import LoggerProvider, ReadableLogRecord
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, LogRecordExportResult, SimpleLogRecordProcessor

import torchelastic_otel
from tests.support.collector import HttpCollector, wait_until
from tests.support.descriptors import descriptors
from tests.support.spans import span
from torchelastic_otel import events, semconv
from torchelastic_otel.instrument.events_hook import HookReport
from torchelastic_otel.model.event import ElasticEvent
from torchelastic_otel.processing.metrics.self_metrics import TorchMetric
from torchelastic_otel.processing.processor import SPANS
from torchelastic_otel.runtime import api
from torchelastic_otel.spool import adoption


@pytest.fixture(autouse=True)
def _fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process in which nothing was installed, whose spool is the test's."""
    monkeypatch.setenv("TORCHELASTIC_OTEL_SPOOL_DIR", str(tmp_path))
    monkeypatch.setenv("OTEL_BLRP_SCHEDULE_DELAY", "10")
    monkeypatch.setattr(api, "_uninstalled", False)
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


def install(*destinations: str, **options: object) -> torchelastic_otel.Installation:
    """Install without torch."""
    return torchelastic_otel.install(*destinations, watch_torch=False, **options)  # type: ignore[arg-type]


def test_what_is_recorded_arrives_in_order_with_uid_and_resource() -> None:
    """One event through all packages, from the drop-in to the exporter."""
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


def test_destination_memory_is_told_spans_and_numbers_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's test looks at what the application under test told: all three signals, each in a list of its own."""
    torchelastic_otel.finished_spans().clear()
    torchelastic_otel.finished_metrics().clear()
    installation = install("memory")
    record("e")
    assert torchelastic_otel.flush()
    process_runtime = installation._own_runtime
    assert process_runtime is not None
    assert process_runtime.register((SPANS,)) == {SPANS: SPANS}
    spool = process_runtime.pipeline._sources[-1].spool
    spool.append([(SPANS, span("a").to_json())])
    assert torchelastic_otel.flush()
    assert [finished.name for finished in torchelastic_otel.finished_spans()] == ["a"]
    assert told() == ["e"]
    *_, last = torchelastic_otel.finished_metrics()
    [of_resource] = last.resource_metrics
    assert of_resource.resource == torchelastic_otel.finished_logs()[0].resource
    names = {metric.name for metric in of_resource.scope_metrics[0].metrics}
    assert {semconv.METRIC_EVENTS, semconv.METRIC_EXPORT_DELIVERED, semconv.METRIC_SPOOL_SIZE} <= names


@pytest.mark.parametrize(
    ("variables", "cursors"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}, {"otlp", "otlp traces", "otlp metrics"}),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9"}, {"otlp traces"}),
        ({"OTEL_LOGS_EXPORTER": "console", "OTEL_TRACES_EXPORTER": "none"}, {"console"}),
        ({"TORCHELASTIC_OTEL_DESTINATIONS": "console,file", "OTEL_METRICS_EXPORTER": "none"}, None),
    ],
)
def test_each_signal_is_led_where_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], cursors: set[str] | None
) -> None:
    """An endpoint for traces sends no logs or numbers anywhere; `none` holds for destinations, too."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    installation = api.install_from_environment()
    assert installation is not None
    led = {exporter.cursor for exporter in installation.registry.exporters_of("null")}
    assert led == (cursors or {"console_line", "file", "file traces"})


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
    assert api.current() is None


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
    monkeypatch.setattr("torchelastic_otel.export.otel.sdk_bridge.get_logger_provider", lambda: provider)
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


def test_a_destination_that_is_registered_anew_leads_elsewhere() -> None:
    """And what was recorded before goes where it was to go."""
    first, second = Collecting(), Collecting()
    torchelastic_otel.register_destination("audit", first)
    install("null")
    record("a", "audit")
    torchelastic_otel.register_destination("audit", second)
    record("b", "audit")
    assert torchelastic_otel.flush()
    assert (first.names, second.names) == (["a"], ["b"])
    torchelastic_otel.unregister_destination("audit")


def test_a_built_in_destination_leads_where_it_led_once_it_is_unregistered() -> None:
    """Agents record to null whatever a program does."""
    own = Collecting()
    install("memory")
    torchelastic_otel.register_destination("null", own)
    record("a")
    torchelastic_otel.unregister_destination("null")
    record("b")
    assert torchelastic_otel.flush()
    assert own.names == ["a"]
    assert told() == ["a", "b"]  # null always reaches the default exporters too


def test_a_destination_can_be_registered_and_forgotten_before_install() -> None:
    """The order of two calls must not matter."""
    torchelastic_otel.register_destination("early", "memory")
    torchelastic_otel.unregister_destination("early")
    with pytest.raises(torchelastic_otel.UnknownDestinationError, match="unknown registered destination 'early'"):
        torchelastic_otel.unregister_destination("early")


def test_an_unknown_destination_is_the_same_error_everywhere() -> None:
    """Whoever catches the public one catches the drop-in's."""
    with pytest.raises(torchelastic_otel.UnknownDestinationError):
        record("a", "nowhere")


def test_a_destination_that_a_package_brings_can_be_recorded_to(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`record(event, destination=NAME)` reaches every name that the registry knows, bound or not."""
    package = tmp_path / "bringing-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: bringing\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[torchelastic_otel.destinations]\nbrought = bringing:exporters\n")
    (tmp_path / "bringing.py").write_text("def exporters():\n    return 'memory'\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    install("null")
    record("a", "brought")
    assert torchelastic_otel.flush()
    assert told() == ["a"]
    torchelastic_otel.uninstall()
    with pytest.raises(torchelastic_otel.UnknownDestinationError):
        record("b", "brought")


@pytest.mark.parametrize(
    ("variable", "value", "named", "exporters"),
    [
        ("OTEL_SDK_DISABLED", "true", ("memory",), ()),
        ("TORCHELASTIC_OTEL", "off", (), ()),
        ("OTEL_LOGS_EXPORTER", "none", ("sdk",), ()),
        ("OTEL_LOGS_EXPORTER", "none", ("memory",), ("memory",)),
    ],
)
def test_install_takes_no_for_an_answer(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, named: tuple[str, ...], exporters: tuple[str, ...]
) -> None:
    """Whoever runs a program has the last word over whoever wrote it."""
    monkeypatch.setenv(variable, value)
    assert install(*named).status.exporters == exporters


def test_a_bad_mode_is_said_also_where_nothing_is_active(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """`TORCHELASTIC_OTEL=yes` must not be a silent no."""
    monkeypatch.delenv("TORCHELASTIC_OTEL_SPOOL_DIR")
    monkeypatch.setenv("TORCHELASTIC_OTEL", "yes")
    api.install_from_environment()
    assert "TORCHELASTIC_OTEL='yes' is not allowed; allowed: auto, on, off" in caplog.text


def test_installing_and_uninstalling_leaves_no_thread() -> None:
    """Counted by the system: the writer is no thread that `threading` knows."""

    def threads() -> int:
        return len(os.listdir("/proc/self/task"))

    install("memory")
    torchelastic_otel.uninstall()  # what OpenTelemetry itself starts once is not ours
    before = threads()
    for _ in range(3):
        install("memory")
        record("e")
        torchelastic_otel.uninstall()
    assert wait_until(lambda: threads() <= before)


def test_what_is_left_at_the_end_is_said_with_where_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """At three in the morning: nothing is lost, and here is where it waits."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    install("otlp_proto_http")
    record("e")
    torchelastic_otel.uninstall()
    assert "some events are not delivered; they are stored in" in caplog.text
    assert str(tmp_path) in caplog.text


def test_an_event_that_says_when_it_happened_is_believed() -> None:
    """`Event.timestamp` is in milliseconds; torch itself always leaves it 0."""
    install("memory")
    events.record(events.Event(name="e", source=events.EventSource.WORKER, timestamp=1_700_000_000_123))
    assert torchelastic_otel.flush()
    (log,) = torchelastic_otel.finished_logs()
    assert log.log_record.timestamp == 1_700_000_000_123_000_000


AWAY = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "TORCHELASTIC_OTEL_FLUSH_TIMEOUT": "5"}


def test_after_uninstall_an_undelivered_spool_is_closed_and_nobodys(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A program that installs for each of its jobs keeps no files open, and its next installation delivers the rest."""
    for name, value in AWAY.items():
        monkeypatch.setenv(name, value)
    for _ in range(3):
        install("otlp_proto_http")
        record("left")
        torchelastic_otel.uninstall()
    left = list(tmp_path.rglob("*.spool"))
    assert len(left) == 3
    assert wait_until(lambda: not any(adoption.is_owned(path) for path in left), 60)
    assert wait_until(lambda: descriptors(str(tmp_path)) == [], 60)
    with HttpCollector() as collector:
        for name, value in collector.env("logs", "traces", "metrics").items():
            monkeypatch.setenv(name, value)
        install("otlp_proto_http")
        assert collector.wait_for(3, 60)
        assert wait_until(lambda: not any(path.exists() for path in left), 60)
        torchelastic_otel.uninstall()


class Hanging(InMemoryLogRecordExporter):
    """Answers when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.go = threading.Event(), threading.Event()

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        """Hang, then take it."""
        self.asked.set()
        self.go.wait(60)
        return super().export(batch)


def test_after_uninstall_a_spool_is_closed_once_the_last_exporter_has_come_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who uninstalls does not wait for it, and the spool is not closed under a thread that uses it."""
    monkeypatch.setenv("TORCHELASTIC_OTEL_FLUSH_TIMEOUT", "0.1")
    hanging = Hanging()
    torchelastic_otel.register_destination("hanging", hanging)
    try:
        installation = install("hanging")
        path = wait_until(lambda: installation.status.spool is not None, 60) and installation.status.spool
        assert path
        record("e")
        assert hanging.asked.wait(60)
        torchelastic_otel.uninstall()
        assert adoption.is_owned(path)
        hanging.go.set()
        assert wait_until(lambda: not adoption.is_owned(path) and descriptors(str(path)) == [], 60)
    finally:
        hanging.go.set()
        torchelastic_otel.unregister_destination("hanging")


def test_what_an_old_handler_is_told_after_uninstall_starts_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A logger that keeps a handler of ours must not bring all of our threads back."""
    for name, value in AWAY.items():
        monkeypatch.setenv(name, value)
    installation = install("otlp_proto_http")
    handler = events.get_logging_handler("null")
    record("e")
    torchelastic_otel.uninstall()
    assert wait_until(lambda: not installation._queue._running, 60)
    spools = list(tmp_path.rglob("*.spool"))
    handler.handle(logging.makeLogRecord({"msg": '{"name": "late"}'}))
    assert not installation.flush(1)
    assert not installation.wait_until_ready(1)
    assert not installation._queue._running
    assert list(tmp_path.rglob("*.spool")) == spools


def test_a_keeper_that_is_made_again_uses_the_same_landing(tmp_path: Path) -> None:
    """What fails once must not cost a spool, a lock and three descriptors for each batch of events."""
    installation = install("memory")
    assert installation.wait_until_ready(60_000_000_000)
    process_runtime = installation._own_runtime
    installation._make_writer()
    assert installation._own_runtime is process_runtime
    assert len(list(tmp_path.rglob("*.spool"))) == 1


def test_a_copy_of_torchs_elastic_can_be_watched_while_numbers_are_asked_for() -> None:
    """`watch` comes from the thread that imports the copy, the question from an exporter's."""
    installation = install("memory")

    class Hooks:
        """As `TorchHooks`; another one comes while it is asked."""

        reports: tuple[HookReport, ...] = ()

        @property
        def torch_metrics(self) -> Hooks:
            return self

        def read(self) -> dict[str, TorchMetric]:
            installation._hooks.setdefault(f"copy{len(installation._hooks)}", Hooks())  # type: ignore[arg-type]
            return {}

        def uninstall(self) -> None:
            """Nothing is hooked."""

    installation._hooks["first"] = Hooks()  # type: ignore[assignment]
    assert installation._torch_metrics() == {}


IMPORTS_AFTER_INSTALL = """
import sys, threading
from pathlib import Path
import torchelastic_otel
from torchelastic_otel import events
from torchelastic_otel.runtime import api as runtime

assert {"_MAX_LOAD_NS", "_MAX_READY_NS"} <= set(vars(runtime)), "set below"
runtime._MAX_LOAD_NS = runtime._MAX_READY_NS = 60_000_000_000  # a slow machine is no fault
late = []
installed = False

def seen(event, args):
    ours = threading.current_thread() is not threading.main_thread()
    if event == "import" and installed and ours and args[0].startswith(("opentelemetry", "torchelastic_otel")):
        late.append(args[0])

sys.addaudithook(seen)
from torchelastic_otel.runtime import api
api._MAX_READY_NS = api._MAX_LOAD_NS = 150 * 10**9  # on a busy machine the SDK takes longer than a program waits
torchelastic_otel.install(sys.argv[1], watch_torch=False)
installed = True
events.record(events.Event(name="e", source=events.EventSource.AGENT))
torchelastic_otel.flush(60)
installed = False
print(sorted({name.partition(".")[0] + "." + name.rpartition(".")[2] for name in late}))
"""


@pytest.mark.unmeasured
@pytest.mark.parametrize("destination", ["otlp_proto_http", "otlp_proto_grpc", "otlp", "file", "console"])
def test_once_install_is_back_our_threads_import_nothing_that_a_program_may_import(
    destination: str, tmp_path: Path
) -> None:
    """Of two threads that import the SDK's circles at once, Python refuses one: that may be the program's."""
    said = subprocess.run(
        [sys.executable, "-c", IMPORTS_AFTER_INSTALL, destination],
        capture_output=True,
        text=True,
        timeout=180,
        env=os.environ | AWAY | {"TORCHELASTIC_OTEL_FILE_DIR": str(tmp_path)},
    )
    assert said.stdout.splitlines()[-1] == "[]", said.stderr
