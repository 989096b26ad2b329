"""What dead agents left is delivered in their own name; what is left is told, with the reason."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.collector import (
    BAD_REQUEST,
    HANG,
    OK,
    UNAUTHORIZED,
    UNAVAILABLE,
    GrpcCollector,
    HttpCollector,
    attributes_of,
    refusing_port,
)
from tests.support.orphaned_spools import Spools, event, origin
from tests.support.spans import span
from torchelastic_otel import semconv
from torchelastic_otel.cli import main
from torchelastic_otel.model.event import ElasticEvent, Origin
from torchelastic_otel.model.signals import Signal
from torchelastic_otel.processing.metrics import MetricState, update
from torchelastic_otel.processing.processor import METRICS_KEY, ORIGIN_KEY, SPANS
from torchelastic_otel.spool import adoption
from torchelastic_otel.spool.directory import CORRUPT_SUFFIX, DELIVERED_SUFFIX, SPOOL_SUFFIX

SetEnv = Callable[[dict[str, str]], None]


def flush(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    """The status and the report."""
    status = main(["flush", "--json", *arguments])
    return status, json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("kind", [HttpCollector, GrpcCollector])
def test_what_dead_agents_left_is_delivered_with_their_own_resource(
    kind: type[HttpCollector], spools: Spools, setenv: SetEnv, capsys: pytest.CaptureFixture[str]
) -> None:
    """Promise 3: delivered later with its own host, pid and times."""
    origins = [spools.dead(3, host="node-a"), spools.dead(5, host="node-b")]
    with kind() as collector:
        setenv(collector.env())
        status, report = flush(capsys)
        assert status == 0, report
        assert sorted(collector.uids()) == sorted(
            f"{origin.id}-{number}"
            for origin, events in zip(origins, (3, 5), strict=True)
            for number in range(1, events + 1)
        )
        assert {resource["host.name"] for resource, _ in collector.records()} == {"node-a", "node-b"}
        assert {record.time_unix_nano for _, record in collector.records()} == set(range(1_000, 1_005))
    assert report["complete"] is True
    counts = {entry["host"]: entry["exporters"]["otlp"]["delivered"] for entry in report["delivered"]}
    assert counts == {"node-a": 3, "node-b": 5}
    assert {entry["run"] for entry in report["delivered"]} == {"run-1"}
    assert spools.files(SPOOL_SUFFIX) == []
    assert len(spools.files(DELIVERED_SUFFIX)) == 2


def test_the_text_says_what_was_delivered(spools: Spools, setenv: SetEnv, capsys: pytest.CaptureFixture[str]) -> None:
    """For the person, or the job's log, that ran it."""
    spools.dead(1)
    with HttpCollector() as collector:
        setenv(collector.env())
        assert main(["flush"]) == 0
        assert capsys.readouterr().out.splitlines() == [
            "delivered: node-a pid 4711 run run-1: otlp 1",
            "1 event of 1 process delivered; nothing is left",
        ]
        assert main(["flush"]) == 0
        assert capsys.readouterr().out.startswith("nothing to deliver in ")


@pytest.mark.parametrize(
    ("answer", "why", "timeout"),
    [(UNAVAILABLE, "HTTP 503", "5"), (UNAUTHORIZED, "HTTP 401", "5"), (HANG, "no response in time", "0.5")],
)
def test_a_collector_that_does_not_take_it_leaves_everything_and_the_reason(
    answer: Any, why: str, timeout: str, spools: Spools, setenv: SetEnv, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 1 must mean that the next flush has the same to do."""
    spools.dead(3)
    with HttpCollector() as collector:
        collector.behaviour = answer
        setenv(collector.env())
        status, report = flush(capsys, "--timeout", timeout)
        assert status == 1
        assert report["complete"] is False
        assert [(entry["live"], entry["pending"]) for entry in report["left"]] == [(False, {"otlp": 3})]
        assert why in report["left"][0]["why"]["otlp"]
        collector.behaviour = OK
        assert flush(capsys)[0] == 0
        assert len(set(collector.uids())) == 3


def test_a_collector_that_comes_back_within_the_timeout_gets_it(
    spools: Spools, setenv: SetEnv, capsys: pytest.CaptureFixture[str]
) -> None:
    """One failure is no reason to give up what the caller gave time for."""
    spools.dead(3)
    with HttpCollector() as collector:
        collector.behaviour = lambda request: UNAVAILABLE if collector.requests < 1 else OK
        setenv(collector.env())
        status, report = flush(capsys, "--timeout", "20")
        assert status == 0, report
        assert len(set(collector.uids())) == 3


def test_what_belongs_to_another_exporter_is_left_with_its_name(
    spools: Spools, setenv: SetEnv, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its events must neither vanish nor go elsewhere; waiting would not help, so it does not wait."""
    spools.dead(2, exporters=("otlp_proto_grpc",))
    spools.dead(4, exporters=("otlp", "vendor"))
    with HttpCollector() as collector:
        setenv(collector.env())
        assert main(["flush", "--timeout", "600"]) == 1
        lines = capsys.readouterr().out.splitlines()
        assert len(collector.uids()) == 4
    assert sorted(lines) == [
        "4 events of 1 process delivered; 6 events of 2 processes left in " + str(spools.directory),
        "delivered: node-a pid 4711 run run-1: otlp 4",
        "left: node-a pid 4711 run run-1: 2 pending for otlp_proto_grpc: this exporter is not configured here;"
        " add it to TORCHELASTIC_OTEL_DESTINATIONS",
        "left: node-a pid 4711 run run-1: 4 pending for vendor: this exporter is not configured here;"
        " add it to TORCHELASTIC_OTEL_DESTINATIONS",
    ]


def test_what_only_a_living_process_can_show_is_not_owed(
    spools: Spools, setenv: SetEnv, capsys: pytest.CaptureFixture[str]
) -> None:
    """A console line of a dead process is of no use to anybody."""
    spools.dead(2, exporters=("console_line",))
    setenv({"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{refusing_port()}"})
    status, report = flush(capsys)
    assert (status, report["left"]) == (0, [])


def test_one_exporter_that_is_away_starves_no_spool_of_the_other(
    spools: Spools, setenv: SetEnv, capsys: pytest.CaptureFixture[str]
) -> None:
    """More spools than are taken over at a time, and one of two exporters that answers."""
    for _ in range(20):
        spools.dead(1, exporters=("otlp_proto_http", "otlp_proto_grpc"))
    with HttpCollector() as collector:
        setenv(
            {
                "TORCHELASTIC_OTEL_DESTINATIONS": "otlp_proto_http,otlp_proto_grpc",
                "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": collector.endpoint,  # speaks no gRPC
            }
        )
        for timeout in ("1", "20"):  # a slow machine may need more than the first for all of them
            status, report = flush(capsys, "--timeout", timeout)
            if {tuple(entry["pending"]) for entry in report["left"]} == {("otlp_proto_grpc",)}:
                break
        assert len(set(collector.uids())) == 20
    assert status == 1
    assert {tuple(entry["pending"].items()) for entry in report["left"]} == {(("otlp_proto_grpc", 1),)}
    assert len(report["left"]) == 20


def test_a_living_agents_spool_is_waited_for_and_told(
    spools: Spools, setenv: SetEnv, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its events are its own to deliver; taking them would send them twice."""
    with HttpCollector() as collector, spools.live() as agent:
        setenv(collector.env())
        assert main(["flush", "--timeout", "0.2"]) == 1
        out = capsys.readouterr().out
        assert "left: node-live pid 4711 run run-1: running agent, 1 pending for otlp\n" in out
        assert collector.uids() == []
        assert agent.stdin is not None
        agent.stdin.write("deliver\n")
        agent.stdin.flush()
        status, report = flush(capsys, "--timeout", "30")
        assert (status, report["left"], report["delivered"]) == (0, [], [])


def test_an_agent_that_is_killed_while_it_is_waited_for_is_delivered(
    spools: Spools, setenv: SetEnv, capsys: pytest.CaptureFixture[str]
) -> None:
    """The end of a pod: the agent dies within the sidecar's grace."""
    with HttpCollector() as collector, spools.live() as agent:
        setenv(collector.env())
        agent.kill()
        status, report = flush(capsys, "--timeout", "30")
        assert status == 0, report
        assert len(collector.uids()) == 1


@pytest.mark.parametrize("content", [b"no database at all, whatever its name says", b""])
def test_a_file_that_is_no_spool_is_told_and_stops_no_other(
    content: bytes, spools: Spools, setenv: SetEnv, capsys: pytest.CaptureFixture[str]
) -> None:
    """A torn disk costs its own file only, and nobody is told that all is well."""
    (spools.directory / f"0{SPOOL_SUFFIX}").write_bytes(content)
    spools.dead(2)
    with HttpCollector() as collector:
        setenv(collector.env())
        status, report = flush(capsys)
        assert len(collector.uids()) == 2
    # an empty file is what a process leaves that was killed before its first event: nothing is lost with it
    assert status == (1 if content else 0)
    assert [Path(path).name for path in report["corrupt"]] == ([f"0{CORRUPT_SUFFIX}"] if content else [])


def test_a_symbolic_link_is_not_followed_and_told(
    spools: Spools, setenv: SetEnv, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Promise 8."""
    (spools.directory / f"0{SPOOL_SUFFIX}").symlink_to(tmp_path / "elsewhere")
    setenv({"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{refusing_port()}"})
    status, report = flush(capsys, "--timeout", "0")
    assert status == 1
    assert "symbolic link" in report["left"][0]["trouble"]


def test_what_a_receiver_refuses_for_good_is_not_called_delivered(
    spools: Spools, setenv: SetEnv, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is set aside and waits for nobody; status 0 would hide it."""
    spools.dead(2)
    with HttpCollector() as collector:
        setenv(collector.env())
        collector.behaviour = BAD_REQUEST
        assert main(["flush"]) == 1
    out = capsys.readouterr().out
    assert "delivered: node-a pid 4711 run run-1: otlp 0 (2 rejected by the receiver)" in out
    assert "2 events rejected; nothing is left" in out


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"TORCHELASTIC_OTEL": "off"}, "export is disabled: TORCHELASTIC_OTEL=off; unset it here"),
        (
            {f"OTEL_{signal.name}_EXPORTER": "none" for signal in Signal},
            "no exporter is configured"
            " (OTEL_LOGS_EXPORTER=none, OTEL_TRACES_EXPORTER=none, OTEL_METRICS_EXPORTER=none)",
        ),
        ({"OTEL_LOGS_EXPORTER": "otpl"}, "unknown exporter 'otpl'"),
        ({"TORCHELASTIC_OTEL_DESTINATIONS": "null"}, "has no exporter"),
        ({"OTEL_LOGS_EXPORTER": "otlp", "TORCHELASTIC_OTEL_SPOOL_DIR": "/proc/nowhere"}, "/proc/nowhere"),
    ],
)
def test_settings_that_lead_nowhere_are_an_error(
    variables: dict[str, str], said: str, spools: Spools, setenv: SetEnv, capsys: pytest.CaptureFixture[str]
) -> None:
    """A sidecar that flushes nothing, or another directory than its agents', must not look well."""
    setenv(variables)
    assert main(["flush"]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


def test_a_bad_setting_is_named(spools: Spools, setenv: SetEnv, capsys: pytest.CaptureFixture[str]) -> None:
    """As in the agent: the default is used, and said."""
    setenv({"TORCHELASTIC_OTEL_SPOOL_MAX_BYTES": "lots", "TORCHELASTIC_OTEL_DESTINATIONS": "memory"})
    assert main(["flush"]) == 0
    assert "torchelastic-otel flush: TORCHELASTIC_OTEL_SPOOL_MAX_BYTES='lots' is not allowed" in capsys.readouterr().err


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
def test_the_sidecar_delivers_as_it_goes_and_once_more_at_the_end(
    end: signal.Signals, spools: Spools, setenv: SetEnv
) -> None:
    """A pod's end: SIGTERM comes to agent and sidecar at once, and what the agent left then must still go."""
    with HttpCollector() as collector:
        setenv(collector.env())
        program = [sys.executable, "-m", "torchelastic_otel", "flush", "--watch", "--interval", "0.1"]
        with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as sidecar:
            assert sidecar.stdout is not None
            assert sidecar.stdout.readline().startswith(f"watching {spools.directory}")
            spools.dead(3)
            assert sidecar.stdout.readline() == "delivered: node-a pid 4711 run run-1: otlp 3\n"
            with spools.live() as agent:
                sidecar.send_signal(end)
                agent.kill()
                assert collector.wait_for(4)
            out, err = sidecar.communicate(timeout=30)
        assert sidecar.returncode == 0, err
        assert out.splitlines()[-1] == "4 events of 2 processes delivered; nothing is left"
        assert err == ""


def test_the_sidecar_tells_a_program_line_by_line(spools: Spools, setenv: SetEnv) -> None:
    """One JSON object a line, the last one the report."""
    with HttpCollector() as collector:
        setenv(collector.env())
        program = [sys.executable, "-m", "torchelastic_otel", "flush", "--watch", "--json", "--interval", "0.1"]
        with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as sidecar:
            spools.dead(3)
            assert sidecar.stdout is not None
            first = json.loads(sidecar.stdout.readline())
            assert first["exporters"] == {"otlp": {"delivered": 3, "rejected": 0, "set_aside": 0}}
            sidecar.terminate()
            out, _ = sidecar.communicate(timeout=30)
        assert json.loads(out)["complete"] is True
        assert sidecar.returncode == 0


def test_two_flushes_at_once_deliver_everything_once(spools: Spools, setenv: SetEnv) -> None:
    """Exactly one adopter for each spool."""
    for _ in range(12):
        spools.dead(2)
    with HttpCollector() as collector:
        setenv(collector.env())
        program = [sys.executable, "-m", "torchelastic_otel", "flush", "--timeout", "30"]
        both = [subprocess.Popen(program, stdout=subprocess.DEVNULL, env=dict(os.environ)) for _ in range(2)]
        assert [each.wait(60) for each in both] == [0, 0]
        assert len(collector.uids()) == len(set(collector.uids())) == 24
        assert all(
            attributes_of(record.attributes)["torchelastic.run.id"] == "run-1" for _, record in collector.records()
        )


def killed_with_everything(spools: Spools) -> Origin:
    """An agent that was killed: three events, two spans, and numbers that nobody was told."""
    whose = origin("node-a")
    owned = adoption.create(spools.directory, whose.id, 1 << 20)
    owned.spool.put_meta(ORIGIN_KEY, whose.to_json())
    owned.spool.subscribe({"otlp": ["null"], "otlp traces": [SPANS]})
    owned.spool.append([("null", event(number).to_json()) for number in range(3)])
    owned.spool.append([(SPANS, span(name).to_json()) for name in ("a", "b")])
    identified = ElasticEvent(semconv.RUN_IDENTIFIED, "null", "", 1, 2, 3, attributes={semconv.RUN_ID: "run-1"})
    owned.spool.put_meta(METRICS_KEY, update(MetricState(whose.started_ns), identified).to_json())
    owned.spool.close()
    owned.lock.release()
    return whose


@pytest.mark.parametrize("kind", [HttpCollector, GrpcCollector])
def test_events_spans_and_last_numbers_of_the_dead_are_delivered(
    kind: type[HttpCollector], spools: Spools, setenv: SetEnv, capsys: pytest.CaptureFixture[str]
) -> None:
    """All three signals, with the dead process's resource, and told as what they are."""
    whose = killed_with_everything(spools)
    with kind() as collector:
        setenv(collector.env("logs", "traces", "metrics"))
        assert main(["flush"]) == 0
        assert len(collector.records()) == 3
        assert [told.name for _, told in collector.spans()] == ["a", "b"]
        assert collector.metrics()
        for resource, _ in [*collector.records(), *collector.spans(), *collector.metrics()]:
            assert resource["service.instance.id"] == whose.id
        requests = collector.requests
        assert main(["flush"]) == 0
        assert collector.requests == requests
    out = capsys.readouterr().out.splitlines()
    assert "node-a pid 4711" in out[0]
    assert "otlp 3, otlp traces 2, otlp metrics its last metrics" in out[0]
    assert out[1] == "3 events and 2 spans of 1 process delivered; nothing is left"
    assert len(spools.files(DELIVERED_SUFFIX)) == 1


def test_spans_that_have_nowhere_to_go_here_are_left_and_told(
    spools: Spools, setenv: SetEnv, capsys: pytest.CaptureFixture[str]
) -> None:
    """A sidecar with an endpoint for logs alone must not look well while traces wait."""
    killed_with_everything(spools)
    with HttpCollector() as collector:
        setenv(collector.env())
        assert main(["flush"]) == 1
        assert len(collector.records()) == 3
    out = capsys.readouterr().out
    assert "2 pending for otlp traces: this exporter is not configured here" in out
    assert "0 events and 2 spans of 1 process left" in out


def test_metrics_that_cannot_be_exported_here_hold_up_no_event(
    spools: Spools, setenv: SetEnv, capsys: pytest.CaptureFixture[str]
) -> None:
    """`OTEL_METRICS_EXPORTER=console` is fine; what is no push exporter is said, and the rest goes on."""
    spools.dead(3)
    with HttpCollector() as collector:
        setenv(collector.env() | {"OTEL_METRICS_EXPORTER": "otlp_proto_http"})
        setenv({"OTEL_PYTHON_EXPORTER_OTLP_HTTP_METRICS_CREDENTIAL_PROVIDER": "none-such"})
        assert main(["flush"]) == 0
        assert len(collector.records()) == 3
    assert "credential provider 'none-such' is not installed" in capsys.readouterr().err
