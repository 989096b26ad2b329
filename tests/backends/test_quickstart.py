"""The documented quickstart, with other ports: from nothing to an answer of each backend; no process remains."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.backends import Programs, eventually
from tests.support.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
QUICKSTART = ROOT / "scripts" / "quickstart"
PAGE = (ROOT / "docs" / "how-to" / "backends-on-this-machine.md").read_text()
DEFAULTS = {
    name: int(port) for name, port in re.findall(r"^    (\w+): int = (\d+)$", QUICKSTART.read_text(), re.MULTILINE)
}
"""The ports of scripts/quickstart, by name; the page names four of them."""


@pytest.fixture
def ports() -> dict[str, int]:
    """Free ports in place of the default ones: these tests run beside others."""
    return {name: free_port() for name in DEFAULTS}


def blocks(ports: dict[str, int]) -> list[str]:
    """The commands of the page, with other ports."""
    found = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    numbers = {str(DEFAULTS[name]): str(port) for name, port in ports.items()}
    found = [re.sub(r"(?<=127\.0\.0\.1:)\d+", lambda match: numbers[match[0]], block) for block in found]
    flags = " ".join(f"--port {name}={port}" for name, port in ports.items())
    return [block.replace("scripts/quickstart ", f"scripts/quickstart {flags} ") for block in found]


def environment() -> dict[str, str]:
    """A terminal in which the package is installed."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "TORCHELASTIC"))}
    return {**kept, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "NO_PROXY": "127.0.0.1"}


def typed(line: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
    """Run it in a shell."""
    return subprocess.run(
        ["bash", "-e", "-c", line], cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=timeout_s,
        check=False,
    )  # fmt: skip


def at_a_terminal() -> None:
    """Restore SIGINT: a shell that starts these tests in the background has it ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def listening(port: int) -> bool:
    """Whether a server accepts connections there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.usefixtures("programs")
def test_the_commands_of_the_page_answer(tmp_path: Path, ports: dict[str, int]) -> None:
    """A reader types these lines and gets these answers; after Ctrl-C nothing listens."""
    first, second = blocks(ports)
    output = tmp_path / "quickstart.log"
    with output.open("wb") as log:
        terminal = subprocess.Popen(
            ["bash", "-e", "-c", first], cwd=ROOT, env=environment(), stdout=log, stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=at_a_terminal,
        )  # fmt: skip
    try:
        eventually(lambda: terminal.poll() is not None or "\nready." in output.read_text(), 150)
        assert terminal.poll() is None, output.read_text()
        printed = output.read_text().partition("\nready.")[2]
        assert all(f"127.0.0.1:{ports[name]}" in printed for name in ("otlp_grpc", "logs", "metrics", "traces"))
        # the page and the script show the same queries
        printed_queries = re.findall(r"^ +(curl .*?\n.*)$", printed, re.MULTILINE)
        job, *queries = re.split(r"(?=^# )", second, flags=re.MULTILINE)
        assert [words(query) for query in printed_queries] == [words(query.partition("\n")[2]) for query in queries]
        done = typed(job, 170)
        assert done.returncode == 0, done.stdout + done.stderr
        # a query that is typed at once may come before the data
        logs, metrics, traces = (eventually(lambda query=query: answer(query), 20) for query in queries)
    finally:
        if terminal.poll() is None:
            os.killpg(terminal.pid, signal.SIGINT)
        status = terminal.wait(60)
    expected = re.compile(r"Restart 1 completed in .*: a worker failed: on demo-node-[ab], rank \d")
    assert all(expected.match(record["_msg"]) for record in logs)
    (series,) = metrics[0]["data"]["result"]
    assert (series["metric"]["torchelastic_restart_reason"], series["value"][1]) == ("worker_failure", "1")
    (trace,) = traces[0]["data"]
    assert "torchelastic.training" in {span["operationName"] for span in trace["spans"]}
    assert status in (0, -signal.SIGINT, 130), output.read_text()
    assert not [port for port in ports.values() if listening(port)]


def words(command: str) -> list[str]:
    """A command as the shell reads it."""
    return shlex.split(command.replace("\\\n", " "))


def answer(query: str) -> list[dict[str, Any]]:
    """The JSON documents of a backend's answer, one a line; none as long as it has no result."""
    found = [json.loads(line) for line in typed(query, 30).stdout.splitlines()]
    empty: tuple[Any, ...] = ([], {"resultType": "vector", "result": []})
    return [] if any(each.get("data", each) in empty for each in found) else found


def test_a_port_in_use_is_an_error_that_names_it(programs: Programs, ports: dict[str, int]) -> None:
    """Two quickstarts, or a Prometheus that runs already: one line with the port, and no traceback."""
    assert programs
    with socket.socket() as mine:
        mine.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        mine.bind(("127.0.0.1", ports["metrics"]))
        mine.listen()
        flags = " ".join(f"--port {name}={port}" for name, port in ports.items())
        done = typed(f"scripts/quickstart {flags}", 60)
    assert done.returncode == 2
    assert done.stderr == f"quickstart: in use on 127.0.0.1: port {ports['metrics']}\n"


@pytest.mark.parametrize("wrong", ["metric=9091", "logs=many"])
def test_a_wrong_port_is_an_error(wrong: str) -> None:
    """A mistyped name must not start the programs on the default port."""
    done = typed(f"scripts/quickstart --port {wrong}", 60)
    assert done.returncode == 2
    assert "--port" in done.stderr.splitlines()[-1]
