"""A rendezvous that is held up: who is there, who is missing, and how often that is said."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.observers import Clock, wait_until_idle
from torchelastic_otel import semconv
from torchelastic_otel.agent.rendezvous_wait import RendezvousView, RendezvousWaitMonitor
from torchelastic_otel.event_loop import EventLoopThread
from torchelastic_otel.model.node_id import address_of


class Held:
    """A rendezvous whose state the test sets."""

    def __init__(self, nodes_min: int | None = 3) -> None:
        self.clock = Clock()
        self.thread = EventLoopThread(self.clock.monotonic_ns)
        self.view: RendezvousView | None = RendezvousView(0, False, ("a_1_0",), (), "a_1_0")
        self.events: list[dict[str, Any]] = []
        self.waiting = RendezvousWaitMonitor(self.thread, self._say, lambda: self.view, nodes_min, self.clock)

    def _say(self, name: str, attributes: Any) -> None:
        assert name == semconv.RENDEZVOUS_WAITING
        self.events.append(dict(attributes))

    def at(self, seconds: float) -> int:
        """How often it was said until then."""
        self.clock.seconds = seconds
        wait_until_idle(self.thread)
        return len(self.events)


@pytest.fixture
def held() -> Held:
    """A rendezvous of three nodes, of which one is there."""
    return Held()


def test_it_is_said_after_a_few_seconds_and_then_ever_more_rarely(held: Held) -> None:
    """A night of waiting must not be a night of warnings."""
    held.waiting.begin()
    wait_until_idle(held.thread)
    said = {at: held.at(at) for at in (0, 4.9, 5, 9.9, 10, 19.9, 20, 40, 80, 160, 320, 640, 1240, 1839, 1840)}
    counts = [0, 0, 1, 1, 2, 2, 3, 4, 5, 6, 7, 8, 9, 9, 10]
    assert said == dict(zip(said, counts, strict=True))
    assert [told[semconv.RENDEZVOUS_WAITED] for told in held.events][:4] == [5, 10, 20, 40]


def test_it_says_who_is_there_and_how_many_are_missing(held: Held) -> None:
    """In the first round nobody knows who is missing, but how many."""
    held.view = RendezvousView(0, False, ("b_2_0", "a_1_0"), ("c_3_0",), "a_1_0")
    held.waiting.begin()
    wait_until_idle(held.thread)
    held.at(5)
    assert held.events == [
        {
            semconv.RENDEZVOUS_WAITED: 5,
            semconv.NODES_MIN: 3,
            semconv.RENDEZVOUS_PRESENT: 3,
            semconv.RENDEZVOUS_PARTICIPANTS: ("a_1_0", "b_2_0", "c_3_0"),
            semconv.RENDEZVOUS_MISSING: 0,
            semconv.RENDEZVOUS_MISSING_NODES: (),
            semconv.RENDEZVOUS_MISSING_NODE_IDS: (),
        }
    ]


def test_after_a_round_it_says_who_is_missing_by_host_and_last_rank(held: Held) -> None:
    """The person on call wants to know which machine to look at."""
    held.waiting.set_previous(["a_1_0", "gpu_7_2_0", "c_3_0"])
    held.waiting.begin()
    wait_until_idle(held.thread)
    held.at(5)
    (told,) = held.events
    assert told[semconv.RENDEZVOUS_MISSING] == 2
    assert told[semconv.RENDEZVOUS_MISSING_NODES] == (
        "gpu_7, last rank 1 (gpu_7_2_0)",
        "c, last rank 2 (c_3_0)",
    )
    assert told[semconv.RENDEZVOUS_MISSING_NODE_IDS] == ("1:gpu_7_2_0", "2:c_3_0")


def test_a_host_that_is_back_under_another_process_id_is_not_missing(held: Held) -> None:
    """Whoever is woken must not look after a host whose pod was started again a minute ago."""
    held.waiting.set_previous(("a_1_0", "b_2_0", "c_3_0", "c_4_0"))
    held.view = RendezvousView(1, False, ("a_1_0",), ("c_9_0",), "a_1_0")
    held.waiting.begin()
    wait_until_idle(held.thread)
    held.at(5)
    assert held.events[0][semconv.RENDEZVOUS_MISSING_NODES] == ("b, last rank 1 (b_2_0)", "c, last rank 3 (c_4_0)")


def test_a_rendezvous_that_goes_on_says_nothing(held: Held) -> None:
    """And the next attempt is not blamed for the one before."""
    held.waiting.begin()
    wait_until_idle(held.thread)
    held.at(4)
    held.waiting.end()
    held.waiting.begin()
    wait_until_idle(held.thread)
    assert held.at(8.9) == 0
    assert held.at(9) == 1
    assert held.events[0][semconv.RENDEZVOUS_WAITED] == 5
    held.waiting.end()
    assert held.at(100) == 1


def test_a_node_that_stands_by_is_not_held_up(held: Held) -> None:
    """The others train; it is there in case."""
    held.view = RendezvousView(4, True, ("b_2_0",), ("a_1_0",), "a_1_0")
    held.waiting.begin()
    wait_until_idle(held.thread)
    assert held.at(30) == 0
    held.view = RendezvousView(5, False, ("a_1_0",), (), "a_1_0")
    assert held.at(60) == 1


def test_a_backend_that_tells_nothing_is_said_to_wait_all_the_same() -> None:
    """Static and etcd keep no state that could be looked at."""
    held = Held(nodes_min=None)
    held.view = None
    held.waiting.begin()
    wait_until_idle(held.thread)
    held.at(5)
    assert held.events == [{semconv.RENDEZVOUS_WAITED: 5, semconv.NODES_MIN: None}]


def test_a_thousand_nodes_are_not_a_wall_of_names(held: Held) -> None:
    """Attributes are bounded; how many are there is told all the same."""
    nodes = tuple(f"n{number}_1_0" for number in range(1000))
    held.view = RendezvousView(0, False, nodes[:500], (), "n0_1_0")
    held.waiting.set_previous(nodes)
    held.waiting.begin()
    wait_until_idle(held.thread)
    held.at(5)
    assert held.events[0][semconv.RENDEZVOUS_PRESENT] == 500
    assert len(held.events[0][semconv.RENDEZVOUS_PARTICIPANTS]) == 64
    assert len(held.events[0][semconv.RENDEZVOUS_MISSING_NODES]) == 64


@pytest.mark.parametrize(
    ("node", "address"), [("gpu-7_41_0", "gpu-7"), ("gpu_7_41_0", "gpu_7"), ("10.0.0.7_41_12", "10.0.0.7"), ("x", "x")]
)
def test_an_address_may_have_the_separator_in_it(node: str, address: str) -> None:
    """Torch writes ``addr_pid_localid`` and escapes nothing."""
    assert address_of(node) == address
