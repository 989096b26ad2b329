"""``torchelastic-otel demo``: what it refuses, what it hands to the agents, and the whole of it for real."""

from __future__ import annotations

import argparse
import io
import re
import subprocess
import sys
from pathlib import Path

import pytest

from torchelastic_otel.cli.demo import describe_history
from torchelastic_otel.demo.command import add_arguments, protocol_for, run_demo
from torchelastic_otel.demo.job import Job, Node, agent_environment, launcher_for
from torchelastic_otel.errors import CannotRunError
from torchelastic_otel.testing.otlp_receiver import OtlpReceiver


def demo(*arguments: str) -> tuple[int, str]:
    """Run the command; its status and what it printed."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    out = io.StringIO()
    return run_demo(parser.parse_args(arguments), out, describe_history), out.getvalue()


@pytest.mark.live
@pytest.mark.torch
def test_two_nodes_export_by_two_protocols_and_nothing_is_missing(tmp_path: Path) -> None:
    """The whole way, as a new user goes it: real agents, a failure, a restart, a real receiver."""
    status, text = demo()
    assert status == 0, text
    assert re.search(r"INFO +demo-node-a +node [01]/2 +round 1 .*rendezvous\.joined", text), text
    assert re.search(r"INFO +demo-node-b +node [01]/2 +round 1 .*rendezvous\.joined", text), text
    assert re.search(r"^demo-node-a: (\d+) of \1 events by grpc$", text, re.MULTILINE), text
    assert re.search(r"^demo-node-b: (\d+) of \1 events by http/protobuf$", text, re.MULTILINE), text
    assert "Nothing is missing" in text
    assert re.search(r"^run demo-\w+  succeeded  2 nodes", text, re.MULTILINE), text
    assert re.search(r"^  round 0  failed  2 nodes", text, re.MULTILINE), text
    assert re.search(r"^  round 1  succeeded  2 nodes", text, re.MULTILINE), text
    assert re.search(r"^    failed .*rank 1 .*RuntimeError: .*rank 1 fails once", text, re.MULTILINE), text


@pytest.mark.live
@pytest.mark.torch
def test_a_real_collector_gets_everything_by_the_protocol_asked_for() -> None:
    """``--endpoint`` is how a user tries their own backend; the receiver stands in for it on a real socket."""
    with OtlpReceiver() as collector:
        status, text = demo("--endpoint", collector.http_endpoint, "--protocol", "http/protobuf")
        assert status == 0, text
        accepted = [int(number) for number in re.findall(r"^demo-node-[ab] +(\d+) of", text, re.MULTILINE)]
        assert len(accepted) == 2
        assert sum(accepted) == len({record.uid for record in collector.records})
        assert {record.protocol for record in collector.records} == {"http/protobuf"}


@pytest.mark.torch_unloaded
def test_without_torch_one_line_says_what_to_install(tmp_path: Path) -> None:
    """The likeliest mistake of a new user: no traceback, status 2."""
    program = """
        import argparse, importlib.metadata as metadata, sys
        real = metadata.version
        def version(name):
            if name == "torch":
                raise metadata.PackageNotFoundError(name)
            return real(name)
        metadata.version = version
        from torchelastic_otel.demo.command import add_arguments, run_demo
        parser = argparse.ArgumentParser()
        add_arguments(parser)
        status = run_demo(parser.parse_args([]), sys.stdout, lambda spools: "")
        assert "grpc" not in sys.modules and "torch" not in sys.modules
        sys.exit(status)
    """
    program = "\n".join(line[8:] for line in program.splitlines())
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 2, result.stderr
    assert result.stdout.count("\n") == 1
    assert "pip install 'torchelastic-otel[torch]'" in result.stdout


@pytest.mark.torch
@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--endpoint", "localhost:4317"], "'localhost:4317'"),
        (["--endpoint", "http://"], "'http://'"),
        (["--endpoint", "http://host:port"], "'http://host:port'"),
        (["--endpoint", "ftp://host"], "'ftp://host'"),
        (["--endpoint", "http://127.0.0.1:1"], "nothing listens at 127.0.0.1 port 1: Connection refused"),
        (["--protocol", "grpc"], "--endpoint"),
        (["--timeout", "0"], "--timeout 0"),
    ],
)
def test_a_users_mistake_is_one_line_and_status_2(arguments: list[str], named: str) -> None:
    """What was given, what is allowed, no traceback, no job."""
    status, text = demo(*arguments)
    assert status == 2
    assert text.count("\n") == 1
    assert named in text


@pytest.mark.parametrize(
    ("endpoint", "asked", "protocol"),
    [
        ("http://host:4317", None, "grpc"),
        ("https://host", None, "grpc"),
        ("http://host:4318", None, "http/protobuf"),
        ("https://[::1]:4318/prefix", None, "http/protobuf"),
        ("http://host:4318", "grpc", "grpc"),
        ("https://host:443", "http/protobuf", "http/protobuf"),
    ],
)
def test_the_protocol_follows_the_port_unless_asked(endpoint: str, asked: str | None, protocol: str) -> None:
    """4317 and 4318 are what everyone has."""
    assert protocol_for(endpoint, asked) == protocol


def test_an_endpoint_that_is_none_is_refused() -> None:
    """Brackets that do not close raise inside the standard library's parser."""
    with pytest.raises(CannotRunError, match="http://HOST:PORT"):
        protocol_for("http://[::1", None)


def test_the_callers_telemetry_does_not_reach_the_demonstrations_agents(tmp_path: Path) -> None:
    """A shell that is set up for a real backend must not redirect, silence or authenticate the demo."""
    caller = {
        "PATH": "/bin",
        "OTEL_SDK_DISABLED": "true",
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=secret",
        "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": "http://elsewhere",
        "TORCHELASTIC_OTEL": "off",
        "PET_NNODES": "7",
        "HTTP_PROXY": "http://proxy",
    }
    local = agent_environment(Node("n", "http://127.0.0.1:1", "grpc"), tmp_path, tmp_path / "s", caller)
    assert {name for name in local if name.startswith(("OTEL_", "PET_", "TORCHELASTIC_OTEL"))} == {
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "OTEL_EXPORTER_OTLP_PROTOCOL",
        "OTEL_RESOURCE_ATTRIBUTES",
        "TORCHELASTIC_OTEL_SPOOL_DIR",
        "TORCHELASTIC_OTEL_FLUSH_TIMEOUT",
    }
    assert local["PATH"] == "/bin"
    assert local["NO_PROXY"] == "127.0.0.1"
    remote = agent_environment(Node("n", "https://c", "grpc", remote=True), tmp_path, tmp_path / "s", caller)
    assert remote["OTEL_EXPORTER_OTLP_HEADERS"] == "authorization=secret"
    assert "NO_PROXY" not in remote
    assert "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT" not in remote
    assert "OTEL_SDK_DISABLED" not in remote


def test_agents_that_never_end_are_ended(tmp_path: Path) -> None:
    """Whatever the job does, the machine is as it was afterwards."""
    nodes = [Node("n1", "http://127.0.0.1:1", "grpc"), Node("n2", "http://127.0.0.1:1", "grpc")]
    # The arguments of torchrun come after it, where this program does not look.
    launcher = [sys.executable, "-c", "import threading; threading.Event().wait()"]
    with Job(nodes, tmp_path, launcher, "run", {}) as job:
        assert job.wait(timeout_s=0.2) == {"n1": None, "n2": None}
    assert job.wait(timeout_s=10) == {"n1": -15, "n2": -15}


@pytest.mark.parametrize(
    ("version", "module"),
    [("2.15.0", "torch.distributed.run"), ("2.8.0+cu128", "torch.distributed.run"), ("2.7.1", "torchelastic_otel")],
)
def test_a_torch_without_the_entry_point_gets_the_other_way_in(version: str, module: str) -> None:
    """The demo works wherever the package does."""
    assert launcher_for(version)[:3] == [sys.executable, "-m", module]
