"""The lines that a person on call reads."""

from __future__ import annotations

from typing import Any

import pytest

from torchelastic_otel import semconv
from torchelastic_otel.torch_events.catalogue import message_of
from torchelastic_otel.torch_events.messages import failure

RANKS = {semconv.WORKER_RANK: 3, semconv.WORKER_LOCAL_RANK: 1, semconv.WORKER_PID: 41}
CAUSE = {
    f"{semconv.CAUSE}.{key}": value
    for key, value in {"host": "gpu-7", "rank": 3, "local_rank": 1, "pid": 41, "signal": "SIGKILL"}.items()
}


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({semconv.WORKER_SIGNAL: "SIGKILL", semconv.PROCESS_EXIT_CODE: -9}, "was killed by SIGKILL"),
        ({semconv.PROCESS_EXIT_CODE: 3}, "exited with code 3"),
        ({semconv.PROCESS_EXIT_CODE: 0}, "exited with code 0"),
        ({semconv.ERROR_TYPE: "uninterruptible_sleep"}, "hangs in uninterruptible sleep"),
        ({}, "failed"),
        (
            {semconv.PROCESS_EXIT_CODE: 1, semconv.ERROR_TYPE: "ValueError", semconv.EXCEPTION_MESSAGE: "bad"},
            "exited with code 1: ValueError: bad",
        ),
        ({semconv.PROCESS_EXIT_CODE: 1, semconv.EXCEPTION_MESSAGE: "bad"}, "exited with code 1: bad"),
        (
            {semconv.PROCESS_EXIT_CODE: 1, semconv.ERROR_TYPE: "exit", semconv.EXCEPTION_MESSAGE: "bad"},
            "exited with code 1: bad",
        ),
        (
            {semconv.WORKER_SIGNAL: "SIGTERM", semconv.ERROR_TYPE: "SIGTERM", semconv.EXCEPTION_MESSAGE: "bad"},
            "was killed by SIGTERM: bad",
        ),
    ],
)
def test_a_failure_says_who_and_how(more: dict[str, Any], text: str) -> None:
    """Rank, process and signal by name: what a person looks for first."""
    assert failure({**RANKS, **more}) == f"rank 3 (local rank 1, pid 41) {text}"


@pytest.mark.parametrize(
    ("name", "of", "text"),
    [
        (
            semconv.WORKER_FAILED,
            {**RANKS, semconv.PROCESS_EXIT_CODE: 3},
            "Worker rank 3 (local rank 1, pid 41) exited with code 3",
        ),
        (semconv.WORKER_EXITED, {**RANKS, semconv.PROCESS_EXIT_CODE: 0}, "Worker rank 3 (pid 41) exited with code 0"),
        (semconv.AGENT_PHASE_ENTERED, {semconv.PHASE: "rendezvous"}, "Agent entered phase rendezvous"),
        (
            semconv.AGENT_PHASE_ENTERED,
            {semconv.PHASE: "assign_ranks", semconv.PHASE_PREVIOUS: "rendezvous", semconv.PHASE_DURATION: 1.5},
            "Agent entered phase assign_ranks after 1.500 s in rendezvous",
        ),
        (
            semconv.RESTART_CAUSE_AGREED,
            {semconv.RESTART_REASON: "worker_failure", semconv.RESTART_AGREED: True, **CAUSE},
            "All agents agree: a worker failed: on gpu-7, rank 3 (local rank 1, pid 41) was killed by SIGKILL",
        ),
        (
            semconv.RESTART_CAUSE_AGREED,
            {semconv.RESTART_REASON: "node_lost", semconv.RESTART_AGREED: False, f"{semconv.CAUSE}.host": "gpu-7"},
            "This agent's local view: a node was lost: gpu-7",
        ),
        (
            semconv.RESTART_COMPLETED,
            {
                semconv.RESTART_INDEX: 2,
                semconv.RESTART_DURATION: 12.25,
                semconv.RESTART_REASON: "worker_failure",
                semconv.FAILURE_AMBIGUOUS: True,
                **CAUSE,
            },
            "Restart 2 completed in 12.250 s: a worker failed: on gpu-7, rank 3 (local rank 1, pid 41) was killed by"
            " SIGKILL (ambiguous: another failure is within the error of the times)",
        ),
        (
            semconv.MEMBERSHIP_CHANGED,
            {semconv.MEMBERSHIP_JOINED: ("a_1_0",), semconv.MEMBERSHIP_LOST: tuple(f"n{i}" for i in range(10))},
            "Membership changed: joined a_1_0; lost n0, n1, n2, n3, n4, n5, n6, n7 and 2 more",
        ),
        (
            semconv.RENDEZVOUS_WAITING,
            {
                semconv.RENDEZVOUS_WAITED: 5.0,
                semconv.RENDEZVOUS_PRESENT: 1,
                semconv.RENDEZVOUS_PARTICIPANTS: ("a_1_0",),
                semconv.RENDEZVOUS_MISSING: 1,
                semconv.RENDEZVOUS_MISSING_NODES: ("gpu-7, last rank 1 (gpu-7_9_0)",),
            },
            "Rendezvous has been waiting for 5.000 s: 1 node present, 1 missing: gpu-7, last rank 1 (gpu-7_9_0)",
        ),
        (
            semconv.RENDEZVOUS_WAITING,
            {
                semconv.RENDEZVOUS_WAITED: 5.0,
                semconv.RENDEZVOUS_PRESENT: 500,
                semconv.RENDEZVOUS_PARTICIPANTS: tuple(f"n{number}_1_0" for number in range(64)),
                semconv.RENDEZVOUS_MISSING: 500,
                semconv.RENDEZVOUS_MISSING_NODES: (),
            },
            "Rendezvous has been waiting for 5.000 s: 500 nodes present, 500 missing",
        ),
        (
            semconv.RENDEZVOUS_WAITING,
            {semconv.RENDEZVOUS_WAITED: 5.0, semconv.RENDEZVOUS_PRESENT: 2},
            "Rendezvous has been waiting for 5.000 s: 2 nodes present",
        ),
        (semconv.RENDEZVOUS_WAITING, {semconv.RENDEZVOUS_WAITED: 5.0}, "Rendezvous has been waiting for 5.000 s"),
        (semconv.AGENT_LEAVING, {semconv.WORKER_SIGNAL: "SIGTERM"}, "Agent is leaving: it received SIGTERM"),
        (
            semconv.ROUND_STARTED,
            {semconv.RENDEZVOUS_ROUND: 4, semconv.GROUP_WORLD_SIZE: 3, semconv.ROUND_DURATION: 2.0},
            "Round 4 started on 3 nodes; its bring-up took 2.000 s",
        ),
        ("of.tomorrow", {}, "of.tomorrow"),
    ],
)
def test_each_event_has_a_line_of_its_own(name: str, of: dict[str, Any], text: str) -> None:
    """The body is what is read where attributes are not shown: a console, a terminal, a chat message."""
    assert message_of(name, of) == text
