"""Torch's own agents under watch, and agents that projects build on them: what is seen, and that nothing is harmed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from support.watching import LONGEST_S, Said, free_port

from torchelastic_otel import semconv
from torchelastic_otel.capture import torch_agent
from torchelastic_otel.capture.job_facts import Silent
from torchelastic_otel.capture.torch_agent import AgentHooks
from torchelastic_otel.capture.torch_arming import Patches

pytestmark = pytest.mark.torch
ROOT = Path(__file__).resolve().parents[2]
PHASES = ["rendezvous", "assign_ranks", "start", "running"]


@dataclass
class Stand:
    """Hooks on the torch that is there, and agents of any class."""

    folder: Path
    said: Said = field(default_factory=Said)
    patches: Patches = field(default_factory=Patches)
    hosts: bool = False
    hands_context_on: bool = False

    def __post_init__(self) -> None:
        self.hooks = AgentHooks(
            self.patches,
            lambda fact: self.said(fact),
            store_is_safe=True,
            hosts_store=lambda: self.hosts,
            hands_context_on=self.hands_context_on,
        )

    def agent(self, kind: Any, code: str, *, workers: int = 1, restarts: int = 0, handler: Any = None) -> Any:
        """A watched agent whose workers run a line of shell."""
        from torch.distributed.elastic.agent.server.api import WorkerSpec
        from torch.distributed.elastic.rendezvous.static_tcp_rendezvous import StaticTCPRendezvous

        spec = WorkerSpec(
            role="trainer",
            local_world_size=workers,
            rdzv_handler=handler or StaticTCPRendezvous("127.0.0.1", free_port(), 0, 1, "run", 60),
            entrypoint="/bin/sh",
            args=("-c", code),
            max_restarts=restarts,
            monitor_interval=0.02,
        )
        made = kind(spec, **self._logs())
        self.hooks.agent_made(made, spec)
        return made

    def _logs(self) -> dict[str, Any]:
        from torch.distributed.elastic.multiprocessing import api

        kind = getattr(api, "DefaultLogsSpecs", None)
        return {"log_dir": str(self.folder)} if kind is None else {"logs_specs": kind(log_dir=str(self.folder))}

    def phases(self) -> list[str]:
        """The phases that the agents went through."""
        return [fact.attributes[semconv.PHASE] for fact in self.said.of(semconv.AGENT_PHASE_ENTERED)]

    def last(self, name: str) -> Any:
        """The attributes of what was last said under a name."""
        return self.said.of(name)[-1].attributes


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[Stand]:
    """Hooks that are off again at the end, and torch's signal handlers with them."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    before = {number: signal.getsignal(number) for number in numbers}
    made = Stand(Path(tempfile.mkdtemp(dir=tmp_path)))
    yield made
    made.patches.undo()
    for number, handler in before.items():
        signal.signal(number, handler)


def local_agent() -> Any:
    """Torch's own."""
    from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent

    return LocalElasticAgent


def test_a_clean_end(stand: Stand) -> None:
    """Each hook fires once, in order."""
    result = stand.agent(local_agent(), "exit 0", workers=2).run()
    assert not result.is_failed()
    assert stand.phases() == [*PHASES, "exit_barrier", "ended"]
    assert stand.last(semconv.AGENT_PHASE_ENTERED)[semconv.AGENT_OUTCOME] == "succeeded"
    exits = stand.said.wait(semconv.WORKER_EXITED, 2)
    assert sorted(fact.attributes[semconv.WORKER_RANK] for fact in exits) == [0, 1]
    assert len(exits) == 2
    started = stand.said.one(semconv.AGENT_STARTED).attributes
    assert (started[semconv.RENDEZVOUS_BACKEND], started[semconv.NODES_MIN]) == ("static", 1)
    assert stand.said.wait(semconv.RUN_IDENTIFIED)[0].attributes[semconv.INFERRED_FROM] == "store"
    assert len(stand.said.wait(semconv.ROUND_STARTED)) == 1


def test_a_failure_and_a_restart(stand: Stand, tmp_path: Path) -> None:
    """What torch says nothing of."""
    mark = tmp_path / "failed"
    code = f'if [ -e {mark} ]; then exit 0; fi; [ "$LOCAL_RANK" = 1 ] && touch {mark} && exit 3; exec sleep 60'
    result = stand.agent(local_agent(), code, workers=2, restarts=1).run()
    assert not result.is_failed()
    assert stand.phases() == [*PHASES, "detect", "stop", *PHASES, "exit_barrier", "ended"]
    failed = stand.said.one(semconv.WORKER_FAILED).attributes
    assert (failed[semconv.WORKER_RANK], failed[semconv.PROCESS_EXIT_CODE]) == (1, 3)
    started = stand.said.one(semconv.RESTART_STARTED).attributes
    assert (started[semconv.RESTART_TRIGGER], started[semconv.RESTART_COUNT]) == ("worker_failure", 1)
    stand.said.wait(semconv.WORKER_EXITED, 4)
    told = [fact.attributes[semconv.WORKER_PID] for fact in stand.said.of(semconv.WORKER_EXITED)]
    assert len(told) == len(set(told)) == 4
    agreed = stand.said.wait(semconv.RESTART_CAUSE_AGREED)[0].attributes
    assert (agreed[semconv.RESTART_REASON], agreed[f"{semconv.CAUSE}.rank"]) == ("worker_failure", 1)


def test_restarts_exhausted_is_a_failure(stand: Stand) -> None:
    """Torch's agent says SUCCEEDED all the same (trap 3)."""
    result = stand.agent(local_agent(), "exit 4").run()
    assert result.is_failed()
    assert stand.phases() == [*PHASES, "detect", "stop", "ended"]
    assert stand.last(semconv.AGENT_PHASE_ENTERED)[semconv.AGENT_OUTCOME] == "failed"
    assert len(stand.said.of(semconv.WORKER_FAILED)) == 1


def test_a_signal_goes_through_and_is_told(stand: Stand) -> None:
    """Promise 1: a job that ignores SIGTERM because of its telemetry is killed 30 seconds later."""
    from torch.distributed.elastic.multiprocessing.api import SignalException

    agent = stand.agent(local_agent(), "kill -TERM $PPID; exec sleep 60")
    with pytest.raises(SignalException):
        agent.run()
    assert stand.said.one(semconv.AGENT_LEAVING).attributes[semconv.WORKER_SIGNAL] == "SIGTERM"
    assert stand.phases() == [*PHASES, "stop", "ended"]
    last = stand.last(semconv.AGENT_PHASE_ENTERED)
    assert (last[semconv.AGENT_OUTCOME], last[semconv.ERROR_TYPE]) == ("terminated", "SignalException")
    assert stand.said.of(semconv.WORKER_FAILED) == []


def overriding(calls_super: bool, calls: list[str]) -> Any:
    """An agent as projects build them, which monitors, starts and stops in ways of its own (NVRx 0.7)."""
    base = local_agent()

    class Own(base):  # type: ignore[misc, valid-type]
        def _start_workers(self, worker_group: Any) -> Any:
            calls.append("start")
            return super()._start_workers(worker_group) if calls_super else base._start_workers(self, worker_group)

        def _stop_workers(self, worker_group: Any, *args: Any, **kwargs: Any) -> None:
            calls.append("stop")
            if calls_super:
                super()._stop_workers(worker_group, *args, **kwargs)
            else:
                self._pcontext.close()

        def _monitor_workers(self, worker_group: Any) -> Any:
            calls.append("monitor")
            return super()._monitor_workers(worker_group) if calls_super else base._monitor_workers(self, worker_group)

    return Own


@pytest.mark.parametrize("calls_super", [True, False])
def test_an_agent_that_overrides_is_seen_once_and_unharmed(stand: Stand, calls_super: bool) -> None:
    """What it overrides is wrapped where it is; what it calls of torch's own is not seen a second time."""
    calls: list[str] = []
    plain = stand.agent(local_agent(), "exit 0")
    agent = stand.agent(overriding(calls_super, calls), "exit 4", restarts=1)
    assert agent.run().is_failed()
    assert stand.phases() == [*PHASES, "detect", "stop", *PHASES, "detect", "stop", "ended"]
    assert len(stand.said.of(semconv.WORKER_FAILED)) == 2
    assert len(stand.said.of(semconv.RESTART_STARTED)) == 1
    assert (calls.count("start"), calls.count("stop")) == (2, 2)
    assert not plain.run().is_failed()


def test_workers_get_the_agents_word_in_their_environment_and_keep_their_own(stand: Stand) -> None:
    """One file for each; what a user set is the user's."""
    out = stand.folder / "out"
    stand.hooks._hands_context_on = True
    code = f'echo "$LOCAL_RANK $TORCHELASTIC_OTEL_TRAINING_FILE $TORCHELASTIC_OTEL_TRACEPARENT" >> {out}'
    agent = stand.agent(overriding(True, []), code, workers=2)
    agent.run()
    lines = sorted(line.split(" ") for line in out.read_text().splitlines())
    assert [line[0] for line in lines] == ["0", "1"]
    assert len({line[1] for line in lines}) == 2
    assert all("torchelastic-otel-training-" in line[1] for line in lines)


def test_a_worker_that_trains_is_heard(stand: Stand) -> None:
    """From the worker's file to the agent's word."""
    source = str(Path(torch_agent.__file__).parents[2])
    code = f"PYTHONPATH={source} {sys.executable} -c 'import torchelastic_otel as o; o.training_started()'"
    stand.agent(local_agent(), code).run()
    assert stand.said.wait(semconv.TRAINING_STARTED)[0].attributes[semconv.WORKER_RANK] == 0


@pytest.mark.tests_own_faults
def test_hooks_that_fail_reach_nobody(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise 1: never raises into torch, whatever is broken in here."""

    def fail(*_: Any, **__: Any) -> Any:
        raise ValueError("ours")

    agent = stand.agent(local_agent(), "exit 4", workers=2, restarts=1)
    watch = stand.hooks._agents[agent].watch
    for name in [name for name in dir(watch) if not name.startswith("_") and callable(getattr(watch, name))]:
        monkeypatch.setattr(watch, name, fail)
    monkeypatch.setattr(torch_agent, "_codes", fail)
    assert agent.run().is_failed()


@pytest.mark.tests_own_faults
def test_a_listener_that_fails_reaches_nobody(stand: Stand) -> None:
    """A full disk, a spool that is gone."""

    def fail(*_: Any) -> None:
        raise OSError("disk full")

    agent = stand.agent(local_agent(), "exit 0")
    stand.said.__class__ = type("Failing", (Said,), {"__call__": fail})
    assert not agent.run().is_failed()


@pytest.mark.tests_own_faults
def test_an_agent_that_cannot_be_looked_up_works_as_without_us(stand: Stand) -> None:
    """A class may say when two of its objects are equal, and then they have no hash."""

    class Equal(local_agent()):  # type: ignore[misc]
        def __eq__(self, other: object) -> bool:
            return False

        __hash__ = None  # type: ignore[assignment]

    stand.agent(local_agent(), "exit 0").run()
    agent = None
    try:
        agent = stand.agent(Equal, "exit 0")
    except TypeError:
        pass  # what TorchHooks keeps in
    from torch.distributed.elastic.agent.server.api import WorkerSpec
    from torch.distributed.elastic.rendezvous.static_tcp_rendezvous import StaticTCPRendezvous

    spec = WorkerSpec("r", 1, StaticTCPRendezvous("127.0.0.1", free_port(), 0, 1, "run", 60), entrypoint="/bin/true")
    spec.monitor_interval = 0.02
    agent = agent or Equal(spec, **stand._logs())
    assert not agent.run().is_failed()


def every_attribute() -> dict[tuple[str, str], object]:
    """What torch's classes and modules hold that we touch."""
    from torch.distributed.elastic.agent.server import api, local_elastic_agent
    from torch.distributed.elastic.multiprocessing import api as processes
    from torch.distributed.elastic.rendezvous import dynamic_rendezvous, static_tcp_rendezvous

    owners = [
        api.SimpleElasticAgent,
        local_elastic_agent.LocalElasticAgent,
        local_elastic_agent,
        processes.PContext,
        processes.SubprocessContext,
        dynamic_rendezvous.DynamicRendezvousHandler,
        dynamic_rendezvous._BackendRendezvousStateHolder,
        static_tcp_rendezvous.StaticTCPRendezvous,
    ]
    return {
        (owner.__name__, name): value
        for owner in owners
        for name, value in vars(owner).items()
        # the cache of the abstract base class grows with every isinstance()
        if name not in ("_abc_impl", "__warningregistry__")
    }


def test_uninstall_leaves_torch_as_found(stand: Stand) -> None:
    """A guest leaves the house as it was (promise 7)."""
    before = every_attribute()
    stand.agent(local_agent(), "exit 4", restarts=1).run()
    touched = {key for key, value in every_attribute().items() if before.get(key) is not value}
    assert ("SimpleElasticAgent", "_rendezvous") in touched
    assert ("PContext", "close") in touched
    stand.patches.undo()
    assert every_attribute() == before


def dynamic(store: Any, run_id: str = "dyn", *, nodes: int = 1, local: str = "node") -> Any:
    """A dynamic rendezvous handler on a store of the test's."""
    from torch.distributed.elastic.rendezvous import RendezvousParameters
    from torch.distributed.elastic.rendezvous.c10d_rendezvous_backend import C10dRendezvousBackend
    from torch.distributed.elastic.rendezvous.dynamic_rendezvous import create_handler

    parameters = RendezvousParameters(
        "c10d", "127.0.0.1", run_id, nodes, nodes, local_addr=local, last_call_timeout="1", join_timeout="60"
    )
    return create_handler(store, C10dRendezvousBackend(store, run_id), parameters)


def tcp_store() -> Any:
    """A store that this process hosts."""
    from torch.distributed import TCPStore

    return TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)


def test_with_the_dynamic_rendezvous_the_round_and_the_node_are_its_own(stand: Stand) -> None:
    """Rank and round come from the handler: the tuple of 2.2 and the object of later ones have no round."""
    stand.hosts = True
    handler = dynamic(tcp_store(), local="127.0.0.1")
    stand.agent(local_agent(), "exit 4", restarts=1, handler=handler).run()
    entered = [fact.attributes for fact in stand.said.of(semconv.AGENT_PHASE_ENTERED)]
    joined = [told for told in entered if told[semconv.PHASE] == "assign_ranks"]
    assert [told[semconv.RENDEZVOUS_ROUND] for told in joined] == [0, 1]
    assert {told[semconv.NODE_ID] for told in joined} == {f"127.0.0.1_{os.getpid()}_{handler._this_node.local_id}"}
    assert [told[semconv.RENDEZVOUS_PARTICIPANTS] for told in joined] == [(joined[0][semconv.NODE_ID],)] * 2
    agreed = stand.said.wait(semconv.RESTART_CAUSE_AGREED)[0].attributes
    assert (agreed[semconv.RESTART_AGREED], agreed[semconv.WRITER]) == (True, True)
    assert len(stand.said.wait(semconv.ROUND_STARTED, 2)) == 2
    handler._stop_heartbeats()


def test_torchs_own_client_is_never_used(stand: Stand) -> None:
    """One mutex covers a whole client: who waits on it stops torch's heartbeats."""
    store = tcp_store()
    handler = dynamic(store, local="127.0.0.1")
    used: list[int] = []
    watched = stand.agent(local_agent(), "exit 0", handler=handler)
    ours = stand.hooks._agents[watched].job
    ours.use = lambda made, hosts_store: used.append(id(made._connect()))  # type: ignore[method-assign]
    watched.run()
    assert used
    assert id(store) not in used
    handler._stop_heartbeats()


def test_a_node_whose_heartbeats_stop_is_judged_once_and_again_when_it_was_back(stand: Stand) -> None:
    """Torch deletes it before anybody can ask; every sync finds it anew until somebody writes it away."""
    from torch.distributed.elastic.rendezvous.dynamic_rendezvous import _NodeDesc

    handler = dynamic(tcp_store())
    agent = stand.agent(local_agent(), "exit 0", handler=handler)
    judged: list[Silent] = []
    stand.hooks._agents[agent].job.silent = judged.extend  # type: ignore[method-assign]
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
    assert judged == [Silent("gpu_7_41_0", 1, 1_700_000_000_250_000_000, own_beats_failed=False, round=0)]
    sync(fresh, fresh)
    assert len(judged) == 1
    sync(fresh - timedelta(seconds=11), stale)
    assert judged[1:] == [Silent("gpu_7_41_0", 1, 1_700_000_000_250_000_000, own_beats_failed=True, round=0)]


@pytest.mark.parametrize("zone", [timezone.utc, None])
def test_heartbeats_without_a_time_zone_are_utc(zone: timezone | None) -> None:
    """Torch before 2.5 writes ``datetime.utcnow()``, which says nothing of where it is."""
    assert torch_agent._epoch_s(datetime(2023, 11, 14, 22, 13, 20, tzinfo=zone)) == 1_700_000_000


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
            env={**os.environ, "PYTHONPATH": str(Path(torch_agent.__file__).parents[2])},
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
