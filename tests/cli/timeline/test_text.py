"""What a person sees: one screen for a run, whatever its size; plain in a pipe, fitted and coloured on a terminal."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.job_streams import EPOCH_NS, AgentTape, clean_job, failing_job
from tests.support.recordings import DIRECTORY
from torchelastic_otel import semconv
from torchelastic_otel.cli import main
from torchelastic_otel.cli.timeline.command import parse_since, select
from torchelastic_otel.cli.timeline.render import Page, PageFormat, clean, clock, day_and_clock, duration
from torchelastic_otel.cli.timeline.text import write_run
from torchelastic_otel.history.caveats import ranges
from torchelastic_otel.history.reducer import HistoryState, add, build_runs
from torchelastic_otel.history.types import Run

PLAIN = PageFormat(utc=True)


def run_of(agents: Sequence[AgentTape]) -> Run:
    """Their one run."""
    [run] = build_runs(add(HistoryState(), [delivery for agent in agents for delivery in agent.deliveries]))
    return run


def shown(run: Run, look: PageFormat = PLAIN) -> str:
    """The run as text."""
    page = Page(look)
    write_run(page, run)
    return page.text()


def test_a_failed_round_is_told_as_documented() -> None:
    """Outcome, restarts, who was last, what failed first with its traceback, how long each step took."""
    assert (
        shown(run_of(failing_job()))
        == """\
run job  succeeded  2 nodes  2026-11-22 12:53:20 UTC to 2026-11-22 12:54:05 UTC (45.5 s)
  2 rounds, 1 restart (worker_failure 1); effective training time at most 76.9%
  time: training 35.0 s, rendezvous 3.000 s, starting 4.000 s, detecting 2.000 s, stopping 1.000 s, exit barrier 0.500 s

  round 0  failed  2 nodes  12:53:20.000 to 12:53:42.000 (22.0 s)
    joined     node 1 (node-b) 12:53:20.000, node 0 (node-a) 12:53:21.000; last node 0 (node-a)
    took       rendezvous 1.000 s to 2.000 s, assign_ranks 1.000 s, start 0.500 s, running 16.5 s to 18.5 s, \
detect 0.500 s, stop 0.000 s to 2.500 s
    failed     12:53:40.000 node 1 (node-b), rank 3 (local rank 1, pid 1011): ValueError: boom
               | Traceback
               |   File x
               | ValueError: boom
    left       membership_change: node 0 (node-a); worker_failure: node 1 (node-b)
    restart    1: worker_failure in 5.500 s: detect 0.500 s, stop 1.500 s, rendezvous 2.000 s, assign_ranks 1.000 s, \
start 0.500 s

  round 1  succeeded  2 nodes  12:53:42.000 to 12:54:05.500 (23.5 s)
    joined     node 0 (node-a) 12:53:42.000, node 1 (node-b) 12:53:43.000; last node 1 (node-b)
    took       rendezvous 1.000 s to 2.000 s, assign_ranks 1.000 s, start 0.500 s, running 19.5 s, \
exit_barrier 0.500 s"""
    )


def test_a_thousand_nodes_and_a_hundred_rounds_are_one_screen() -> None:
    """Groups, not walls of text; the odd node out is still named."""
    agents = [AgentTape(f"gpu-{number:04}") for number in range(1_000)]
    for rank, agent in enumerate(agents):
        agent.node_id = f"gpu-{rank:04}_77_0"
        agent.standing[semconv.NODE_ID] = agent.node_id
        agent.start(0)
        agent.bring_up(0, 0, rank, agents[:1_000], late=1.5 if rank == 617 else rank % 7 / 10)
        agent.events = [
            replace(event, attributes={key: value for key, value in event.attributes.items()
                                       if key != semconv.RENDEZVOUS_PARTICIPANTS})
            for event in agent.events
        ]  # fmt: skip
    agents[38].fail(20)
    for rank, agent in enumerate(agents):
        if rank != 38:
            agent.fail(21, process_exit_code=-6, worker_signal="SIGABRT", failure_kind="signal", error_type="SIGABRT")
        agent.give_up(25, 0)
    text = shown(run_of(agents), PageFormat(width=100, utc=True))
    assert len(text.splitlines()) <= 24
    assert max(map(len, text.splitlines())) <= 100
    words = " ".join(text.split())
    assert "joined nodes 0-999 from 12:53:20.000 on, within 1.500 s; last node 617 (gpu-0617) 12:53:21.500" in words
    assert "failed 12:53:40.000 node 38 (gpu-0038), rank 38 (local rank 0, pid 1010): exit code 1" in words
    assert "victims ranks 0-37,39-999 on nodes 0-37,39-999: SIGABRT" in words


def test_many_rounds_are_told_by_the_first_the_last_and_a_count() -> None:
    """A job that flaps all night must not scroll away what counts."""
    [agent] = agents = [AgentTape("node-a")]
    agent.start(0)
    for number in range(40):
        agent.bring_up(number * 30, number, 0, agents)
        if number < 39:
            agent.fail(number * 30 + 20)
            agent.restart(number * 30 + 21, "worker_failure", number + 1)
    agent.succeed(1_200)
    text = shown(run_of(agents))
    assert len(text.splitlines()) < 40
    assert "  rounds 1-37: worker_failure 37\n    first failures there, by host: node-a 37\n" in text
    [seventh] = select([run_of(agents)], None, 7, None, None)
    assert "round 7  failed  1 node" in shown(seventh.run)


def test_what_is_unknown_and_which_files_are_missing_comes_last() -> None:
    """A reader must see what the history is based on."""
    text = shown(run_of(clean_job(2)[:1]))
    assert text.endswith(
        "\n  unknown\n"
        "    - the events of 1 of 2 nodes are missing: node-1_106_0\n"
        "    - how the run ended: some of its nodes are missing; the available ones did not fail"
    )


def test_a_hostile_message_cannot_steer_the_terminal() -> None:
    """A traceback is anybody's text: an escape sequence in it must stay text."""
    [agent] = agents = [AgentTape("node-a\x1b[31m")]
    agent.start(0)
    agent.bring_up(0, 0, 0, agents)
    agent.fail(20, exception_message="\x1b]0;owned\x07\r\nsecond line", failure_kind="exception", error_type="E\x9b2J",
               exception_stacktrace="Traceback\n\x1b[2Jgone\u202e")  # fmt: skip
    agent.give_up(25, 0)
    text = shown(run_of(agents))
    assert not [letter for letter in text if not letter.isprintable() and letter != "\n"]
    assert "\\x1b]0;owned" in text


def test_on_a_terminal_it_is_coloured_and_fits_the_width(tmp_path: Path) -> None:
    """And in a pipe it is plain: grep and tickets want no escapes."""
    arguments = [sys.executable, "-m", "torchelastic_otel", "timeline", "--utc", str(DIRECTORY / "clean-2node-A.jsonl")]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "60"}
    environment.pop("NO_COLOR", None)
    piped = subprocess.run(arguments, capture_output=True, text=True, check=True, env=environment).stdout
    assert "\x1b" not in piped
    assert max(map(len, piped.splitlines())) > 100, "lines are for the reader's tools to cut"
    coloured = on_a_terminal(arguments, environment)
    assert "\x1b[33m" in coloured
    assert max(len(re.sub(r"\x1b\[\d*m", "", line)) for line in coloured.splitlines()) <= 60
    for plain in ([*arguments, "--no-color"], arguments):
        assert "\x1b" not in on_a_terminal(plain, environment | ({"NO_COLOR": "1"} if plain is arguments else {}))


def on_a_terminal(arguments: list[str], environment: dict[str, str]) -> str:
    """What a program writes to a terminal."""
    master, slave = pty.openpty()
    with subprocess.Popen(arguments, stdout=slave, env=environment) as process:
        os.close(slave)
        written = b""
        while True:
            try:
                part = os.read(master, 4_096)
            except OSError:  # Linux says EIO at the end
                break
            if not part:
                break
            written += part
        process.wait()
    os.close(master)
    return written.decode().replace("\r\n", "\n")


def test_times_are_local_unless_asked_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    """A person compares with the wall, a ticket with UTC."""
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    time.tzset()
    try:
        assert clock(EPOCH_NS + 123_456_789, utc=False) == "18:38:20.123"
        assert day_and_clock(EPOCH_NS, utc=False) == "2026-11-22 18:38:20 +0545"
        assert day_and_clock(EPOCH_NS, utc=True) == "2026-11-22 12:53:20 UTC"
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (None, "?"),
        (1_234_567, "0.001 s"),
        (9_999_000_000, "9.999 s"),
        (12_340_000_000, "12.3 s"),
        (59_970_000_000, "1 min 00 s"),
        (3_599_600_000_000, "1 h 00 min"),
        (90_000_000_000_000, "1 d 01 h"),
    ],
)
def test_durations_are_as_fine_as_one_cares_for(nanoseconds: int | None, text: str) -> None:
    """Milliseconds of a rendezvous, minutes of a night."""
    assert duration(nanoseconds) == text


def test_numbers_come_in_ranges() -> None:
    """Nobody reads a thousand numbers."""
    assert ranges([*range(38), 39, 39]) == "0-37,39"
    assert ranges([]) == ""
    assert ranges(range(0, 40, 2)) == "0,2,4,6,8,10,12,14,... (20 of them)"


def test_since_takes_how_long_ago_and_times() -> None:
    """``--since 2h`` is what one types; a time is what a ticket says."""
    assert parse_since("2026-11-22T12:53:20Z") == parse_since("2026-11-22T13:53:20+01:00") == EPOCH_NS
    assert abs(time.time_ns() - parse_since("90m") - 5_400 * 10**9) < 10**9
    assert clean("a\tb") == "a   b"


@pytest.mark.torch_unloaded
def test_the_help_and_the_parser_need_nothing_heavy() -> None:
    """``--help`` works where torch and the SDK are missing, and showing a history needs neither."""
    program = (
        "import sys; from torchelastic_otel.cli import main;"
        f"main(['timeline', {str(DIRECTORY / 'clean-1node-A.jsonl')!r}]);"
        "print([name for name in sys.modules if name.partition('.')[0] in ('torch', 'opentelemetry', 'grpc')])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.endswith("[]\n")


def test_every_event_is_listed_when_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    """Heartbeats, too: to see when a node fell silent."""
    path = DIRECTORY / "agent-sigkill-B.jsonl"
    assert main(["timeline", "--all", "--utc", str(path)]) == 0
    listed = capsys.readouterr().out.partition("  events\n")[2].splitlines()
    assert len(listed) == len(path.read_text().splitlines())
    assert any("rendezvous.keep_alive_sent" in line for line in listed)
