"""The README's quickstart, typed as it stands: from nothing to an answer of each backend; nothing is left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.backends import Programs, eventually

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
PORTS = (3100, 4317, 4318, 8888, 9090, 9095, 13133, 14317, 16686)


def blocks() -> list[str]:
    """What the section has one type."""
    (section,) = re.findall(r"\n## Quickstart: .*?\n(.*?)\n## ", README, re.DOTALL)
    return re.findall(r"```sh\n(.*?)```", section, re.DOTALL)


def environment() -> dict[str, str]:
    """A terminal in which the package is installed."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "TORCHELASTIC"))}
    return {**kept, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "NO_PROXY": "127.0.0.1"}


def typed(line: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
    """What a shell says to it."""
    return subprocess.run(
        ["bash", "-e", "-c", line], cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=timeout_s,
        check=False,
    )  # fmt: skip


def at_a_terminal() -> None:
    """There Ctrl-C is heard, also where whoever started these tests in the background has it ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def listening(port: int) -> bool:
    """Whether somebody takes connections there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def documents(text: str) -> list[dict[str, Any]]:
    """The JSON objects in what was printed, one after the other, between other lines."""
    found, decoder = [], json.JSONDecoder()
    for place in (match.start() for match in re.finditer(r'^\s*(\{"(status|data)")', text, re.MULTILINE)):
        found.append(decoder.raw_decode(text[place:].lstrip())[0])
    return found


@pytest.mark.usefixtures("programs")
def test_what_the_readme_says_to_type_answers(tmp_path: Path) -> None:
    """A reader types these lines and gets these answers; Ctrl-C leaves nothing that listens."""
    taken = [port for port in PORTS if listening(port)]
    assert not taken, f"somebody listens on {taken}: the quickstart cannot be tried here"
    first, second = blocks()
    said = tmp_path / "quickstart.log"
    with said.open("wb") as log:
        terminal = subprocess.Popen(
            ["bash", "-e", "-c", first], cwd=ROOT, env=environment(), stdout=log, stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=at_a_terminal,
        )  # fmt: skip
    try:
        eventually(lambda: terminal.poll() is not None or "\nready." in said.read_text(), 150)
        assert terminal.poll() is None, said.read_text()
        assert all(f"{port}" in said.read_text() for port in (4317, 3100, 9090, 16686))
        # what arrives is found a moment later, and the last of the lines are typed by hand
        job, *questions = re.split(r"(?=^# )", second, flags=re.MULTILINE)
        done = typed(job, 170)
        assert done.returncode == 0, done.stdout + done.stderr
        loki, prometheus, jaeger = (eventually(lambda asked=asked: answer(asked), 20) for asked in questions)
    finally:
        if terminal.poll() is None:
            os.killpg(terminal.pid, signal.SIGINT)
        status = terminal.wait(60)
    lines = [line for stream in loki for _, line in stream["values"]]
    assert lines
    told = re.compile(r"Restart 1 completed in .*: a worker failed: on demo-node-[ab], rank \d")
    assert all(told.match(line) for line in lines)
    (series,) = prometheus
    assert (series["metric"]["torchelastic_restart_reason"], series["value"][1]) == ("worker_failure", "1")
    (trace,) = jaeger
    assert "torchelastic.training" in {span["operationName"] for span in trace["spans"]}
    assert status in (0, -signal.SIGINT, 130), said.read_text()
    assert not [port for port in PORTS if listening(port)]


def answer(question: str) -> Any:
    """What a backend answers to a line of the README; nothing yet, where it has nothing."""
    done = typed(question, 30)
    (document,) = documents(done.stdout)
    data = document["data"]
    return data["result"] if isinstance(data, dict) else data


def test_the_programs_say_no_where_a_port_is_taken(programs: Programs) -> None:
    """Two quickstarts, or a Prometheus that runs already: one line that says which port, and no traceback."""
    assert programs
    with socket.socket() as mine:
        mine.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if not listening(9090):
            mine.bind(("127.0.0.1", 9090))
            mine.listen()
        done = typed("scripts/quickstart", 60)
    assert done.returncode == 2
    assert re.fullmatch(r"quickstart: somebody listens on [\d, ]*9090[\d, ]* of 127\.0\.0\.1 already\n", done.stderr)
