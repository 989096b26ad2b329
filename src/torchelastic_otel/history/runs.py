"""One run, built from the histories of its agents: its outcome, its members, and where its time went.

Guarantees: the job's state at any moment is that of its least advanced node. No moment is counted twice, so the states
together are at most the wall time; the rest is time that no event covers. Training ends with the round's first failure
on any node: a node that continues has not noticed it yet. The share of training is an upper bound: time that no event
covers may have been training.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Final

from torchelastic_otel import semconv
from torchelastic_otel.history.agent_history import AgentHistory
from torchelastic_otel.history.caveats import inferred, unknown
from torchelastic_otel.history.failures import Losses, lost_nodes
from torchelastic_otel.history.rounds import build_rounds
from torchelastic_otel.history.types import Member, Outcome, PhaseInterval, Round, Run, State
from torchelastic_otel.model.node_id import address_of
from torchelastic_otel.model.phases import Phase

_ORDER: Final = (
    State.DETECTING,
    State.STOPPING,
    State.RENDEZVOUS,
    State.STARTING,
    State.TRAINING,
    State.EXIT_BARRIER,
)
"""The least advanced state first."""
_NEWCOMER: Final = len(_ORDER)
"""A node that waits for a place delays no other; it counts only while there is no other."""
_STATES: Final = {
    Phase.ASSIGN_RANKS: State.STARTING,
    Phase.START: State.STARTING,
    Phase.DETECT: State.DETECTING,
    Phase.STOP: State.STOPPING,
    Phase.EXIT_BARRIER: State.EXIT_BARRIER,
}


def build_run(
    run_id: str,
    nonce: str | None,
    agents: Sequence[AgentHistory],
    by_time: Sequence[AgentHistory],
    notes: Iterable[str],
) -> Run:
    """The run.

    Args:
        run_id: The rendezvous id that the user gave.
        nonce: Distinguishes it from others with that id.
        agents: Its agents, each once.
        by_time: Those of them that belong to it only because their time overlaps that of the others.
        notes: Sentences about missing data.
    """
    losses = lost_nodes(agents)
    rounds = _with_restart_indices(build_rounds(agents, losses))
    outcome = _outcome(agents, rounds)
    participants = _participants(agents)
    starts = [first for agent in agents if (first := agent.times[0]) is not None]
    # the phase before the first event may have begun earlier
    starts += [interval.start_ns for agent in agents for interval in agent.phases if interval.start_ns is not None]
    # a spare may outlive the job
    lasts = [last for agent in participants if (last := agent.times[1]) is not None]
    # a peer may report a later heartbeat of a lost node than the last event of that node
    names = {agent.node_id for agent in participants}
    lasts += [loss.heard_ns for loss in losses.values() if loss.node_id in names and loss.heard_ns is not None]
    started_ns, last_ns = min(starts, default=None), max(lasts, default=None)
    wall_ns = last_ns - started_ns if started_ns is not None and last_ns is not None else None
    time = _state_durations(participants, rounds, losses)
    open_ended = _open_ended(participants, losses)
    ratio = None
    if wall_ns and outcome != Outcome.UNKNOWN and not open_ended:
        ratio = (time[State.TRAINING] + max(0, wall_ns - sum(time.values()))) / wall_ns
    run = Run(
        run_id=run_id,
        nonce=nonce,
        outcome=outcome,
        started_ns=started_ns,
        ended_ns=last_ns if outcome in (Outcome.SUCCEEDED, Outcome.FAILED) else None,
        last_ns=last_ns,
        backend=next((agent.backend for agent in agents if agent.backend), None),
        restarts=max((round_.restart.index or 0 for round_ in rounds if round_.restart is not None), default=0),
        nodes=_members(agents, rounds, losses),
        time=time,
        wall_ns=wall_ns,
        training_ratio=ratio,
        rounds=rounds,
        agents=tuple(agent.source for agent in agents),
    )
    return replace(
        run, inferred=inferred(run, agents, by_time, losses), unknown=unknown(run, agents, open_ended, notes)
    )


def _participants(agents: Sequence[AgentHistory]) -> Sequence[AgentHistory]:
    return [agent for agent in agents if agent.rounds] or agents


def _with_restart_indices(rounds: Sequence[Round]) -> tuple[Round, ...]:
    """Restarts without a reported index are counted."""
    result, index = [], 0
    for round_ in rounds:
        if round_.restart is not None:
            index = round_.restart.index if round_.restart.index is not None else index + 1
            round_ = replace(round_, restart=replace(round_.restart, index=index))
        result.append(round_)
    return tuple(result)


def _outcome(agents: Sequence[AgentHistory], rounds: Sequence[Round]) -> Outcome:
    """Failed if any node failed; a spare, a waiting node or a node lost on the way does not fail the run."""
    participants = _participants(agents)
    ends = [agent.end.outcome for agent in participants]
    if any(agent.is_running for agent in participants):
        return Outcome.RUNNING
    if not rounds and all(a.standby_ns is not None or a.wait_listed_ns is not None for a in participants):
        return Outcome.UNKNOWN  # a node that was only on standby, or waited, does not know how the job went
    if Outcome.FAILED in ends:
        return Outcome.FAILED
    over = Outcome.TERMINATED in ends or any(agent.source.alive is False for agent in participants)
    if not rounds:
        return Outcome.FAILED if over else Outcome.UNKNOWN
    last = rounds[-1].outcome
    if last == Outcome.FAILED and not over:
        return Outcome.UNKNOWN  # a round that failed is not an end: what followed is missing
    return last if last in (Outcome.SUCCEEDED, Outcome.FAILED, Outcome.RUNNING) else Outcome.UNKNOWN


def _members(agents: Sequence[AgentHistory], rounds: Sequence[Round], losses: Losses) -> tuple[Member, ...]:
    members = [_member(agent, losses) for agent in agents]
    known = {member.node_id for member in members}
    without_events: dict[str, list[int]] = {}
    ranks: dict[str | None, int | None] = {}
    for round_ in rounds:
        for node in round_.nodes:
            ranks.setdefault(node.node_id, node.group_rank)
            if node.node_id is not None and node.node_id not in known:
                without_events.setdefault(node.node_id, []).append(round_.round)
    lost = {node_id for node_id, _ in losses}
    for node_id, numbers in without_events.items():
        outcome = Outcome.LOST if node_id in lost else Outcome.UNKNOWN
        members.append(Member(address_of(node_id), node_id, outcome=outcome, rounds=tuple(numbers), has_events=False))

    def order(member: Member) -> tuple[int, int, str, int]:
        rank = ranks.get(member.node_id)
        first = min(member.rounds, default=1 << 31)
        return first, rank if rank is not None else 1 << 31, member.node_id or "", member.first_ns or 0

    return tuple(sorted(members, key=order))


def _member(agent: AgentHistory, losses: Losses) -> Member:
    outcome = agent.end.outcome
    if outcome == Outcome.UNKNOWN and agent.source.alive is True:
        outcome = Outcome.RUNNING
    elif outcome == Outcome.UNKNOWN and (agent.has_vanished or (agent.node_id, agent.last_round) in losses):
        outcome = Outcome.LOST
    first_ns, last_ns = agent.times
    counts = [own.restart_count for own in agent.rounds.values() if own.restart_count is not None]
    names = [event.name for event in agent.source.events]
    return Member(
        host=agent.source.origin.host_name,
        node_id=agent.node_id,
        pid=agent.source.origin.pid or None,
        outcome=outcome,
        error_type=agent.end.error_type,
        message=agent.end.message,
        first_ns=first_ns,
        last_ns=last_ns,
        rounds=tuple(agent.rounds),
        restarts=max(counts, default=None),
        wait_listed_ns=agent.wait_listed_ns if not agent.rounds or min(agent.rounds) > 0 else None,
        standby_ns=agent.standby_ns,
        promoted_round=min(agent.rounds, default=None) if agent.standby_ns is not None else None,
        heartbeats=names.count(semconv.RENDEZVOUS_KEEP_ALIVE_SENT),
        stale_states=names.count(semconv.RENDEZVOUS_STATE_STALE),
    )


def _state_durations(agents: Sequence[AgentHistory], rounds: Sequence[Round], losses: Losses) -> dict[State, int]:
    steps: list[tuple[int, int, int]] = []
    for agent in agents:
        for start_ns, end_ns, state in _intervals(agent, rounds, losses):
            if start_ns < end_ns:
                steps += [(start_ns, state, 1), (end_ns, state, -1)]
    steps.sort()
    time = dict.fromkeys(State, 0)
    counts = [0] * (_NEWCOMER + 1)
    for i, (at_ns, state, change) in enumerate(steps):
        counts[state] += change
        until_ns = steps[i + 1][0] if i + 1 < len(steps) else at_ns
        least = next((index for index, count in enumerate(counts) if count), None)
        if least is not None:
            time[State.RENDEZVOUS if least == _NEWCOMER else _ORDER[least]] += until_ns - at_ns
    return time


def _open_ended(agents: Sequence[AgentHistory], losses: Losses) -> list[AgentHistory]:
    """Agents with an unknown duration: their events stop without an end, and so do those of all others.

    Agents with heartbeats, own ones or reported by peers, are not among them.
    """
    last = max((agent.last_round for agent in agents if agent.last_round is not None), default=None)

    def is_heard(agent: AgentHistory) -> bool:
        loss = losses.get((agent.node_id or "", agent.last_round if agent.last_round is not None else -1))
        return agent.has_heartbeats or (loss is not None and loss.heard_ns is not None)

    return [
        agent
        for agent in agents
        if agent.is_open and (agent.backend == "static" or agent.last_round == last) and not is_heard(agent)
    ]


def _intervals(agent: AgentHistory, rounds: Sequence[Round], losses: Losses) -> Iterator[tuple[int, int, int]]:
    """The states of one agent: start, end, index of the state."""
    by_number = {round_.round: round_ for round_ in rounds}
    for i, interval in enumerate(agent.phases):
        start_ns, end_ns = interval.start_ns, interval.end_ns
        if end_ns is None and i + 1 == len(agent.phases):
            end_ns = _last_sign(agent, interval, losses)
        if start_ns is None or end_ns is None or interval.phase == Phase.ENDED:
            continue
        if interval.phase == Phase.RENDEZVOUS:
            before = [number for number in agent.rounds if interval.round is None or number < interval.round]
            previous = max((number for number in by_number if number < (interval.round or 0)), default=None)
            is_member = (
                not rounds
                or interval.round == rounds[0].round
                or (bool(before) if interval.round is None else previous in before)
            )
            yield start_ns, end_ns, _ORDER.index(State.RENDEZVOUS) if is_member else _NEWCOMER
        elif interval.phase == Phase.RUNNING:
            round_ = by_number.get(interval.round) if interval.round is not None else None
            yield from _running(start_ns, end_ns, round_)
        else:
            yield start_ns, end_ns, _ORDER.index(_STATES[interval.phase])


def _last_sign(agent: AgentHistory, interval: PhaseInterval, losses: Losses) -> int | None:
    """The end of an agent's last phase if no event reports it: the last sign of life."""
    loss = losses.get((agent.node_id or "", interval.round if interval.round is not None else -1))
    if loss is not None and loss.heard_ns is not None:
        return loss.heard_ns
    return agent.end.at_ns if agent.end.outcome != Outcome.UNKNOWN else agent.times[1]


def _running(start_ns: int, end_ns: int, round_: Round | None) -> Iterator[tuple[int, int, int]]:
    training_ns, failed_ns = start_ns, end_ns
    if round_ is not None:
        if round_.training_ns is not None:
            training_ns = min(max(start_ns, round_.training_ns), end_ns)
        if round_.first_failure is not None and round_.first_failure.at_ns is not None:
            failed_ns = min(max(start_ns, round_.first_failure.at_ns), end_ns)
    yield start_ns, min(training_ns, failed_ns), _ORDER.index(State.STARTING)
    yield training_ns, failed_ns, _ORDER.index(State.TRAINING)
    yield failed_ns, end_ns, _ORDER.index(State.DETECTING)
