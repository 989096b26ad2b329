"""The report tells what decides whether events arrive, says what is wrong, and gives no secret away."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.collector import (
    FORBIDDEN,
    HANG,
    OK,
    UNAUTHORIZED,
    GrpcCollector,
    HttpCollector,
    items_of,
    refusing_port,
    signal_of,
)
from tests.support.orphaned_spools import Spools, event, origin
from torchelastic_otel.cli import main
from torchelastic_otel.model.signals import Signal
from torchelastic_otel.processing.processor import ORIGIN_KEY
from torchelastic_otel.settings import SETTINGS
from torchelastic_otel.spool import adoption
from torchelastic_otel.spool.directory import CORRUPT_SUFFIX, SPOOL_SUFFIX
from torchelastic_otel.version import __version__

SetEnv = Callable[[dict[str, str]], None]


def doctor(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    """The status and the report."""
    status = main(["doctor", "--json", *arguments])
    return status, json.loads(capsys.readouterr().out)


@pytest.mark.torch
@pytest.mark.parametrize(("kind", "answer"), [(HttpCollector, "HTTP 200 OK"), (GrpcCollector, "gRPC OK")])
def test_a_healthy_installation_is_told_so(
    kind: type[HttpCollector], answer: str, spools: Spools, setenv: SetEnv, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 0 only after a real empty export was accepted and every hook fits."""
    with kind() as collector:
        setenv(collector.env())
        status, report = doctor(capsys)
        assert (status, report["problems"]) == (0, [])
        assert report["healthy"] is True
        assert collector.requests == 1
        assert [len(request.resource_logs) for request in collector.received()] == [0]
    assert report["activation"]["why"] == "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT is set"
    assert [(each["name"], each["answer"]) for each in report["exporters"]] == [("otlp", answer)]
    assert report["versions"]["torchelastic-otel"] == __version__
    assert report["versions"]["torch"]
    assert {each["trouble"] for each in report["hooks"]} == {""}
    assert len(report["hooks"]) >= 4
    assert report["spool"]["directory"] == str(spools.directory)
    assert set(report["settings"]) == {setting.variable for setting in SETTINGS}
    assert report["unused_signals"] == {"traces": "not sent", "metrics": "not sent"}


@pytest.mark.torch
def test_the_text_has_every_section_and_can_be_pasted(
    spools: Spools, setenv: SetEnv, capsys: pytest.CaptureFixture[str]
) -> None:
    """Plain text, for a ticket."""
    spools.dead(3)
    with HttpCollector() as collector:
        setenv(collector.env())
        assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    for section in ("versions", "activation", "settings", "environment", "entry points", "hooks", "spool"):
        assert f"\n{section}" in out
    assert "orphaned, node-a pid 4711 run run-1, 3 events" in out
    assert "otlp: pending 3, delivered 0, rejected 0, quarantined 0, dropped 0" in out
    assert "logs: otlp" in out
    assert out.splitlines()[-2:] == [
        "problems (1):",
        "  - node-a pid 4711 run run-1 ended with pending events (3 for otlp): run 'torchelastic-otel flush'",
    ]
    assert "\x1b" not in out


@pytest.mark.parametrize(
    ("answer", "said"), [(UNAUTHORIZED, "HTTP 401"), (FORBIDDEN, "HTTP 403"), (HANG, "no complete response within 5 s")]
)
def test_what_the_endpoint_answers_is_told(
    answer: Any, said: str, spools: Spools, setenv: SetEnv, capsys: pytest.CaptureFixture[str]
) -> None:
    """The likeliest reason why nothing arrives."""
    with HttpCollector() as collector:
        collector.behaviour = answer
        setenv(collector.env())
        status, report = doctor(capsys, "--timeout", "5")
    assert status == 1
    assert said in report["exporters"][0]["answer"]
    assert [problem for problem in report["problems"] if said in problem and collector.endpoint in problem]


@pytest.mark.parametrize("kind", [HttpCollector, GrpcCollector])
def test_every_signal_is_asked(
    kind: type[HttpCollector], spools: Spools, setenv: SetEnv, capsys: pytest.CaptureFixture[str]
) -> None:
    """One endpoint for all: each signal's exporter is made and sends an empty export, which costs nobody anything."""
    with kind() as collector:
        endpoint = f"http://127.0.0.1:{collector.port}"
        setenv({"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": collector.protocol})
        _, report = doctor(capsys)
        assert sorted(signal_of(request) for request in collector.received()) == ["logs", "metrics", "traces"]
        assert all(items_of(request) == [] for request in collector.received())
    assert {each["signal"]: each["answer"].partition(" ")[2] for each in report["exporters"]} == dict.fromkeys(
        ("logs", "traces", "metrics"), "200 OK" if kind is HttpCollector else "OK"
    )
    assert report["unused_signals"] == {}
    assert [problem for problem in report["problems"] if "answers" in problem] == []


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_nobody_listening_is_connection_refused_for_every_signal(
    protocol: str, spools: Spools, setenv: SetEnv, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each signal by its own exporter, at its own path."""
    endpoint = f"http://127.0.0.1:{refusing_port()}"
    setenv({"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol})
    status, report = doctor(capsys, "--timeout", "20")
    assert status == 1
    answers = report["exporters"]
    assert [each["signal"] for each in answers] == ["logs", "traces", "metrics"]
    assert all("refused" in each["answer"].lower() for each in answers), answers
    ends = ["", "", ""] if protocol == "grpc" else ["/v1/logs", "/v1/traces", "/v1/metrics"]
    assert [each["endpoint"] for each in answers] == [endpoint + end for end in ends]


def test_a_signal_that_is_not_received_is_a_problem_that_says_how_to_be_rid_of_it(
    spools: Spools, setenv: SetEnv, capsys: pytest.CaptureFixture[str]
) -> None:
    """A receiver of logs and traces alone answers 404 for metrics; `none` is the way to say so."""
    with HttpCollector() as collector:
        setenv(collector.env("logs", "traces"))
        setenv({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": collector.endpoint + "/no"})
        setenv({"OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": "http/protobuf"})
        _, report = doctor(capsys)
        [told] = [problem for problem in report["problems"] if "404" in problem]
        assert told.startswith("metrics: ")
        assert "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT is used unchanged, with its path (/v1/metrics)" in told
        setenv({"OTEL_METRICS_EXPORTER": "none"})
        _, report = doctor(capsys)
    assert not [problem for problem in report["problems"] if "404" in problem]
    assert report["unused_signals"] == {"metrics": "not sent (OTEL_METRICS_EXPORTER=none)"}


def test_secrets_appear_nowhere(spools: Spools, setenv: SetEnv, capsys: pytest.CaptureFixture[str]) -> None:
    """Tickets are public."""
    with GrpcCollector() as collector:
        collector.behaviour = OK.but(code="UNAUTHENTICATED", details="bad credentials: Bearer s3cr3t")
        setenv(collector.env())
        setenv(
            {
                "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20s3cr3t",
                "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"http://user:s3cr3t@127.0.0.1:{refusing_port()}",
                "OTEL_VENDOR_TOKEN": "s3cr3t",
            }
        )
        for arguments in ([], ["--json"]):
            assert main(["doctor", "--timeout", "20", *arguments]) == 1
            shown = capsys.readouterr()
            assert "s3cr3t" not in shown.out + shown.err
            assert "UNAUTHENTICATED" in shown.out
            assert "authorization=***" in shown.out


def test_what_lies_in_the_spool_directory_is_told(
    spools: Spools, setenv: SetEnv, capsys: pytest.CaptureFixture[str]
) -> None:
    """Living, dead, damaged, lossy: each in its own words, and nothing is changed by looking."""
    spools.dead(3, exporters=("otlp", "vendor"))
    whose = origin("node-full")
    full = adoption.create(spools.directory, whose.id, 1 << 20)
    full.spool.put_meta(ORIGIN_KEY, whose.to_json())
    full.spool.subscribe({"otlp": ["null"]})
    payload = event(1).to_json()
    for _ in range(100):
        full.spool.append([("null", payload)] * 60)
    full.spool.close()
    full.lock.release()
    (spools.directory / f"old{CORRUPT_SUFFIX}").write_bytes(b"x")
    (spools.directory / f"bad{SPOOL_SUFFIX}").write_bytes(b"no database" * 100)
    setenv({"TORCHELASTIC_OTEL_DESTINATIONS": "memory"})
    with spools.live():
        before = _content(spools.directory)
        status, report = doctor(capsys)
        after = _content(spools.directory)
    assert status == 1
    assert {name: after[name] for name in before} == before
    told = {each["host"]: each for each in report["spool"]["spools"]}
    assert (told["node-live"]["live"], told["node-live"]["cursors"]["otlp"]["pending"]) == (True, 1)
    assert (told["node-a"]["live"], told["node-a"]["cursors"]["vendor"]["pending"]) == (False, 3)
    dropped = told["node-full"]["cursors"]["otlp"]["dropped"]
    assert dropped > 0
    assert (
        f"node-full pid 4711 run run-1: {dropped} events dropped before otlp received them: the spool was full"
        in (report["problems"])
    )
    assert [problem for problem in report["problems"] if "node-live" in problem] == []
    assert [problem for problem in report["problems"] if f"bad{SPOOL_SUFFIX}: file is not a database" in problem]
    assert report["spool"]["corrupt"] == [f"old{CORRUPT_SUFFIX}"]


def _content(directory: Path) -> dict[str, str]:
    """The files but for SQLite's shared memory, which readers note themselves in."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in directory.iterdir()
        if not path.name.endswith(("-shm", ".lock"))
    }


@pytest.mark.torch
@pytest.mark.parametrize(
    ("variables", "status"),
    [
        ({"TORCHELASTIC_OTEL": "off"}, 0),
        ({"OTEL_SDK_DISABLED": "true"}, 0),
        ({f"OTEL_{signal.name}_EXPORTER": "none" for signal in Signal}, 0),
        ({"OTEL_CONFIG_FILE": "otel.yaml", "TORCHELASTIC_OTEL_SPOOL_DIR": ""}, 1),
        ({"OTEL_LOGS_EXPORTER": "otpl"}, 1),
        (
            {
                "OTEL_LOGS_EXPORTER": "otlp",
                "OTEL_EXPORTER_OTLP_CERTIFICATE": "/no/such",
                "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            },
            1,
        ),
        ({"TORCHELASTIC_OTEL_DESTINATIONS": "memory", "TORCHELASTIC_OTEL_FLUSH_TIMEOUT": "soon"}, 1),
        ({"TORCHELASTIC_OTEL_DESTINATIONS": "memory", "TORCHELASTIC_OTEL_DESTINATION": "otlp"}, 1),
        ({"TORCHELASTIC_OTEL_DESTINATIONS": "memory", "TORCHELASTIC_OTEL_SPOOL_DIR": "/proc/nowhere"}, 1),
        ({"TORCHELASTIC_OTEL_DESTINATIONS": "memory"}, 0),
    ],
)
def test_switched_off_on_purpose_is_healthy_and_a_bad_setting_is_not(
    variables: dict[str, str], status: int, spools: Spools, setenv: SetEnv, capsys: pytest.CaptureFixture[str]
) -> None:
    """A script must be able to tell a decision from a mistake; a mistake is named."""
    setenv(variables)
    found, report = doctor(capsys, "--timeout", "1")
    assert found == status, report["problems"]
    if status == 0:
        assert bool(report["notes"]) is ("TORCHELASTIC_OTEL_DESTINATIONS" not in variables)
    else:
        assert any(
            name in problem or value in problem
            for problem in report["problems"]
            for name, value in variables.items()
            if value
        ), report["problems"]


@pytest.mark.torch
def test_torch_is_left_as_it_was_found(spools: Spools, setenv: SetEnv, capsys: pytest.CaptureFixture[str]) -> None:
    """The hooks are tried in this process; nothing of them may stay."""
    from torch.distributed.elastic import events
    from torch.distributed.elastic.agent.server import api
    from torch.distributed.elastic.events import handlers
    from torch.distributed.elastic.rendezvous import dynamic_rendezvous

    def found() -> list[object]:
        return [
            dict(handlers._log_handlers),
            dict(events._events_loggers),
            events.construct_and_record_rdzv_event,
            dynamic_rendezvous.get_method_name,
            api.SimpleElasticAgent.__init__,
        ]

    before = found()
    setenv({"TORCHELASTIC_OTEL_DESTINATIONS": "memory"})
    assert doctor(capsys)[0] == 0
    assert found() == before


@pytest.mark.torch
def test_a_hook_that_does_not_fit_is_named(
    spools: Spools, setenv: SetEnv, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A newer torch: which part of the telemetry is missing, and why."""
    from torch.distributed.elastic.rendezvous import dynamic_rendezvous

    monkeypatch.delattr(dynamic_rendezvous, "get_method_name")
    setenv({"TORCHELASTIC_OTEL_DESTINATIONS": "memory"})
    status, report = doctor(capsys)
    assert status == 1
    assert [each["name"] for each in report["hooks"] if each["trouble"]] == ["get_method_name"]
    assert [problem for problem in report["problems"] if "get_method_name" in problem and "is disabled" in problem]


def test_without_torch_it_says_so_and_is_healthy(spools: Spools, setenv: SetEnv) -> None:
    """A sidecar's image has no torch; flush works there."""
    setenv({"TORCHELASTIC_OTEL_DESTINATIONS": "memory"})
    program = """
import sys
from importlib import metadata
real = metadata.version
def version(name):
    if name == "torch":
        raise metadata.PackageNotFoundError(name)
    return real(name)
metadata.version = version
sys.modules["torch"] = None
from torchelastic_otel.cli import main
sys.exit(main(["doctor"]))
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
    assert "torch is not installed here" in result.stdout
    assert result.stderr == ""
