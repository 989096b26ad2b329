"""Torch's rendezvous under watch, jobs of several agents, and older torches."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from tests.support.observers import LONGEST_S
from tests.support.ports import free_port
from tests.support.torch_agents import HookedTorch, dynamic, local_agent, tcp_store
from torchelastic_otel import semconv
from torchelastic_otel.agent.coordination.membership import SilentNode
from torchelastic_otel.instrument import rendezvous_hook

pytestmark = pytest.mark.torch
ROOT = Path(__file__).resolve().parents[2]
PHASES = ["rendezvous", "assign_ranks", "start", "running"]


def test_with_the_dynamic_rendezvous_the_round_and_the_node_are_its_own(hooked: HookedTorch) -> None:
    """Rank and round come from the handler: the tuple of 2.2 and the object of later ones have no round."""
    hooked.hosts = True
    handler = dynamic(tcp_store(), local="127.0.0.1")
    hooked.agent(local_agent(), "exit 4", restarts=1, handler=handler).run()
    entered = [event.attributes for event in hooked.events.of(semconv.AGENT_PHASE_ENTERED)]
    joined = [told for told in entered if told[semconv.PHASE] == "assign_ranks"]
    assert [told[semconv.RENDEZVOUS_ROUND] for told in joined] == [0, 1]
    assert {told[semconv.NODE_ID] for told in joined} == {f"127.0.0.1_{os.getpid()}_{handler._this_node.local_id}"}
    assert [told[semconv.RENDEZVOUS_PARTICIPANTS] for told in joined] == [(joined[0][semconv.NODE_ID],)] * 2
    agreed = hooked.events.wait(semconv.RESTART_CAUSE_AGREED)[0].attributes
    assert (agreed[semconv.RESTART_AGREED], agreed[semconv.WRITER]) == (True, True)
    assert len(hooked.events.wait(semconv.ROUND_STARTED, 2)) == 2
    handler._stop_heartbeats()


def test_torchs_own_client_is_never_used(hooked: HookedTorch) -> None:
    """One mutex covers a whole client: who waits on it stops torch's heartbeats."""
    store = tcp_store()
    handler = dynamic(store, local="127.0.0.1")
    used: list[int] = []
    watched = hooked.agent(local_agent(), "exit 0", handler=handler)
    ours = hooked.hooks._agents[watched].job
    ours.set_store = lambda made, hosts_store: used.append(id(made._connect()))  # type: ignore[method-assign, assignment]
    watched.run()
    assert used
    assert id(store) not in used
    handler._stop_heartbeats()


def test_a_node_whose_heartbeats_stop_is_judged_once_and_again_when_it_was_back(hooked: HookedTorch) -> None:
    """Torch deletes it before anybody can ask; every sync finds it anew until somebody writes it away."""
    from torch.distributed.elastic.rendezvous.dynamic_rendezvous import _NodeDesc

    handler = dynamic(tcp_store())
    agent = hooked.agent(local_agent(), "exit 0", handler=handler)
    judged: list[SilentNode] = []
    hooked.hooks._agents[agent].job.on_silent = judged.extend  # type: ignore[method-assign, assignment]
    holder, own, peer = handler._state_holder, handler._this_node, _NodeDesc("gpu_7", 41, 0)
    fresh = datetime.now(timezone.utc)
    stale = datetime(2023, 11, 14, 22, 13, 20, 250_000, tzinfo=timezone.utc)

    def sync(own_beat: datetime, peers_beat: datetime) -> None:
        holder._state.last_heartbeats = {own: own_beat, peer: peers_beat}
        holder._state.participants = {own: 0, peer: 1}
        holder._sanitize()

    for _ in range(3):
        sync(fresh, stale)
        assert peer not in holder._state.last_heartbeats
    assert judged == [SilentNode("gpu_7_41_0", 1, 1_700_000_000_250_000_000, own_heartbeats_failed=False, round=0)]
    sync(fresh, fresh)
    assert len(judged) == 1
    sync(fresh - timedelta(seconds=11), stale)
    assert judged[1:] == [SilentNode("gpu_7_41_0", 1, 1_700_000_000_250_000_000, own_heartbeats_failed=True, round=0)]


@pytest.mark.parametrize("zone", [timezone.utc, None])
def test_heartbeats_without_a_time_zone_are_utc(zone: timezone | None) -> None:
    """Torch before 2.5 writes ``datetime.utcnow()``, which says nothing of where it is."""
    assert rendezvous_hook._epoch_s(datetime(2023, 11, 14, 22, 13, 20, tzinfo=zone)) == 1_700_000_000


@pytest.mark.live
def test_a_job_of_three_agents_each_in_a_process_of_its_own(tmp_path: Path) -> None:
    """Who fails, who follows, and that all of them say the same of it."""
    port = free_port()
    program = Path(__file__).parents[1] / "support" / "one_agent.py"
    agents = [
        subprocess.Popen(
            [sys.executable, str(program), str(port), str(number), str(tmp_path)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(rendezvous_hook.__file__).parents[2])},
        )
        for number in range(3)
    ]
    limit = threading.Timer(120, lambda: [agent.kill() for agent in agents])
    limit.start()
    try:
        outputs = [agent.communicate()[0] for agent in agents]
    finally:
        limit.cancel()
    assert [agent.returncode for agent in agents] == [0, 0, 0]
    told = [[line.split(" ", 1) for line in output.splitlines()] for output in outputs]
    identified = {text for lines in told for name, text in lines if name == "identified"}
    assert len(identified) == 1
    causes = {text for lines in told for name, text in lines if name == "agreed"}
    assert len(causes) == 1
    (cause,) = causes
    assert "worker_failure" in cause
    assert sum(name == "started" for lines in told for name, _ in lines) == 2
    assert sum(name == "failed" for lines in told for name, _ in lines) == 1


@pytest.mark.live
@pytest.mark.parametrize("environment", [".venv-torch2.2", ".venv-torch2.8"])
def test_it_fits_the_older_torches(environment: str) -> None:
    """The same agents on the oldest torch that is supported, and on one in between."""
    python = ROOT / environment / "bin" / "python"
    program = Path(__file__).parents[1] / "support" / "small_agent.py"
    done = subprocess.run([python, str(program)], capture_output=True, text=True, timeout=LONGEST_S * 5)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == " ".join(
        [*PHASES, "detect", "stop", *PHASES, "exit_barrier", "ended", "1", "1", "4"]
    )
