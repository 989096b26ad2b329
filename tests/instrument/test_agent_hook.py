"""Torch's own agents under watch, and agents that projects build on them: what is seen, and that nothing is harmed."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.observers import EventCollector
from tests.support.ports import free_port
from tests.support.torch_agents import HookedTorch, local_agent
from torchelastic_otel import semconv
from torchelastic_otel.instrument import agent_hook
from torchelastic_otel.model.inferred_event import InferredEvent

pytestmark = pytest.mark.torch
ROOT = Path(__file__).resolve().parents[2]
PHASES = ["rendezvous", "assign_ranks", "start", "running"]


def test_a_clean_end(hooked: HookedTorch) -> None:
    """Each hook fires once, in order."""
    result = hooked.agent(local_agent(), "exit 0", workers=2).run()
    assert not result.is_failed()
    assert hooked.phases() == [*PHASES, "exit_barrier", "ended"]
    assert hooked.last(semconv.AGENT_PHASE_ENTERED)[semconv.AGENT_OUTCOME] == "succeeded"
    exits = hooked.events.wait(semconv.WORKER_EXITED, 2)
    assert sorted(event.attributes[semconv.WORKER_RANK] for event in exits) == [0, 1]
    assert len(exits) == 2
    started = hooked.events.one(semconv.AGENT_STARTED).attributes
    assert (started[semconv.RENDEZVOUS_BACKEND], started[semconv.NODES_MIN]) == ("static", 1)
    assert hooked.events.wait(semconv.RUN_IDENTIFIED)[0].attributes[semconv.INFERRED_FROM] == "store"
    assert len(hooked.events.wait(semconv.ROUND_STARTED)) == 1


def test_a_failure_and_a_restart(hooked: HookedTorch, tmp_path: Path) -> None:
    """What torch says nothing of."""
    mark = tmp_path / "failed"
    code = f'if [ -e {mark} ]; then exit 0; fi; [ "$LOCAL_RANK" = 1 ] && touch {mark} && exit 3; exec sleep 60'
    result = hooked.agent(local_agent(), code, workers=2, restarts=1).run()
    assert not result.is_failed()
    assert hooked.phases() == [*PHASES, "detect", "stop", *PHASES, "exit_barrier", "ended"]
    failed = hooked.events.one(semconv.WORKER_FAILED).attributes
    assert (failed[semconv.WORKER_RANK], failed[semconv.PROCESS_EXIT_CODE]) == (1, 3)
    started = hooked.events.one(semconv.RESTART_STARTED).attributes
    assert (started[semconv.RESTART_TRIGGER], started[semconv.RESTART_COUNT]) == ("worker_failure", 1)
    hooked.events.wait(semconv.WORKER_EXITED, 4)
    told = [event.attributes[semconv.WORKER_PID] for event in hooked.events.of(semconv.WORKER_EXITED)]
    assert len(told) == len(set(told)) == 4
    agreed = hooked.events.wait(semconv.RESTART_CAUSE_AGREED)[0].attributes
    assert (agreed[semconv.RESTART_REASON], agreed[f"{semconv.CAUSE}.rank"]) == ("worker_failure", 1)


def test_restarts_exhausted_is_a_failure(hooked: HookedTorch) -> None:
    """Torch's agent says SUCCEEDED all the same (trap 3)."""
    result = hooked.agent(local_agent(), "exit 4").run()
    assert result.is_failed()
    assert hooked.phases() == [*PHASES, "detect", "stop", "ended"]
    assert hooked.last(semconv.AGENT_PHASE_ENTERED)[semconv.AGENT_OUTCOME] == "failed"
    assert len(hooked.events.of(semconv.WORKER_FAILED)) == 1


def test_a_signal_goes_through_and_is_told(hooked: HookedTorch) -> None:
    """Promise 1: a job that ignores SIGTERM because of its telemetry is killed 30 seconds later."""
    from torch.distributed.elastic.multiprocessing.api import SignalException

    go = hooked.folder / "go"

    class Letting(EventCollector):
        def __call__(self, event: InferredEvent) -> None:
            super().__call__(event)
            if event.attributes.get(semconv.PHASE) == "running":
                go.touch()

    hooked.events = Letting()
    agent = hooked.agent(local_agent(), f"while [ ! -e {go} ]; do sleep 0.01; done; kill -TERM $PPID; exec sleep 60")
    with pytest.raises(SignalException):
        agent.run()
    assert hooked.events.one(semconv.AGENT_LEAVING).attributes[semconv.WORKER_SIGNAL] == "SIGTERM"
    assert hooked.phases() == [*PHASES, "stop", "ended"]
    last = hooked.last(semconv.AGENT_PHASE_ENTERED)
    assert (last[semconv.AGENT_OUTCOME], last[semconv.ERROR_TYPE]) == ("terminated", "SignalException")
    assert hooked.events.of(semconv.WORKER_FAILED) == []


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
def test_an_agent_that_overrides_is_seen_once_and_unharmed(hooked: HookedTorch, calls_super: bool) -> None:
    """What it overrides is wrapped where it is; what it calls of torch's own is not seen a second time."""
    calls: list[str] = []
    plain = hooked.agent(local_agent(), "exit 0")
    agent = hooked.agent(overriding(calls_super, calls), "exit 4", restarts=1)
    assert agent.run().is_failed()
    assert hooked.phases() == [*PHASES, "detect", "stop", *PHASES, "detect", "stop", "ended"]
    assert len(hooked.events.of(semconv.WORKER_FAILED)) == 2
    assert len(hooked.events.of(semconv.RESTART_STARTED)) == 1
    assert (calls.count("start"), calls.count("stop")) == (2, 2)
    assert not plain.run().is_failed()


def test_workers_get_the_agents_word_in_their_environment_and_keep_their_own(hooked: HookedTorch) -> None:
    """One file for each; what a user set is the user's."""
    out = hooked.folder / "out"
    hooked.hooks._set_traceparent = True
    code = f'echo "$LOCAL_RANK $TORCHELASTIC_OTEL_TRAINING_FILE $TORCHELASTIC_OTEL_TRACEPARENT" >> {out}'
    agent = hooked.agent(overriding(True, []), code, workers=2)
    agent.run()
    lines = sorted(line.split(" ") for line in out.read_text().splitlines())
    assert [line[0] for line in lines] == ["0", "1"]
    assert len({line[1] for line in lines}) == 2
    assert all("torchelastic-otel-training-" in line[1] for line in lines)


def test_each_worker_has_a_path_for_its_evidence(hooked: HookedTorch) -> None:
    """With the agent's process id, by which a worker knows whether it is a direct child."""
    out = hooked.folder / "out"
    agent = hooked.agent(local_agent(), f'echo "$LOCAL_RANK $TORCHELASTIC_OTEL_EVIDENCE_FILE" >> {out}', workers=2)
    agent.run()
    lines = sorted(line.split(" ") for line in out.read_text().splitlines())
    assert [line[0] for line in lines] == ["0", "1"]
    assert all(line[1].startswith(f"{os.getpid()}:/") for line in lines)
    assert len({line[1] for line in lines}) == 2


def test_without_evidence_workers_are_left_alone(hooked: HookedTorch) -> None:
    """TORCHELASTIC_OTEL_WORKER_EVIDENCE=off."""
    out = hooked.folder / "out"
    hooked.hooks._set_evidence = False
    hooked.agent(local_agent(), f'echo "[$TORCHELASTIC_OTEL_EVIDENCE_FILE]" >> {out}').run()
    assert out.read_text() == "[]\n"


def test_a_worker_that_trains_is_heard(hooked: HookedTorch) -> None:
    """From the worker's file to the agent's word."""
    source = str(Path(agent_hook.__file__).parents[2])
    code = f"PYTHONPATH={source} {sys.executable} -c 'import torchelastic_otel as o; o.training_started()'"
    hooked.agent(local_agent(), code).run()
    assert hooked.events.wait(semconv.TRAINING_STARTED)[0].attributes[semconv.WORKER_RANK] == 0


@pytest.mark.tests_own_faults
def test_hooks_that_fail_reach_nobody(hooked: HookedTorch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise 1: never raises into torch, whatever is broken in here."""

    def fail(*_: Any, **__: Any) -> Any:
        raise ValueError("ours")

    agent = hooked.agent(local_agent(), "exit 4", workers=2, restarts=1)
    watch = hooked.hooks._agents[agent].observer
    for name in [name for name in dir(watch) if not name.startswith("_") and callable(getattr(watch, name))]:
        monkeypatch.setattr(watch, name, fail)
    monkeypatch.setattr(agent_hook, "_exit_codes", fail)
    assert agent.run().is_failed()


@pytest.mark.tests_own_faults
def test_a_listener_that_fails_reaches_nobody(hooked: HookedTorch) -> None:
    """A full disk, a spool that is gone."""

    def fail(*_: Any) -> None:
        raise OSError("disk full")

    agent = hooked.agent(local_agent(), "exit 0")
    hooked.events.__class__ = type("Failing", (EventCollector,), {"__call__": fail})
    assert not agent.run().is_failed()


@pytest.mark.tests_own_faults
def test_an_agent_that_cannot_be_looked_up_works_as_without_us(hooked: HookedTorch) -> None:
    """A class may say when two of its objects are equal, and then they have no hash."""

    class Equal(local_agent()):  # type: ignore[misc]
        def __eq__(self, other: object) -> bool:
            return False

        __hash__ = None  # type: ignore[assignment]

    hooked.agent(local_agent(), "exit 0").run()
    agent = None
    try:
        agent = hooked.agent(Equal, "exit 0")
    except TypeError:
        pass  # what TorchHooks keeps in
    from torch.distributed.elastic.agent.server.api import WorkerSpec
    from torch.distributed.elastic.rendezvous.static_tcp_rendezvous import StaticTCPRendezvous

    spec = WorkerSpec("r", 1, StaticTCPRendezvous("127.0.0.1", free_port(), 0, 1, "run", 60), entrypoint="/bin/true")
    spec.monitor_interval = 0.02
    agent = agent or Equal(spec, **hooked._logs())
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


def test_uninstall_leaves_torch_as_found(hooked: HookedTorch) -> None:
    """A guest leaves the house as it was (promise 7)."""
    before = every_attribute()
    hooked.agent(local_agent(), "exit 4", restarts=1).run()
    touched = {key for key, value in every_attribute().items() if before.get(key) is not value}
    assert ("SimpleElasticAgent", "_rendezvous") in touched
    assert ("PContext", "close") in touched
    hooked.patches.undo()
    assert every_attribute() == before
