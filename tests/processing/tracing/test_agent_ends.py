"""Agents that end without a word, jobs of several agents, and whatever else may come."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.history_events import Story, check, times
from torchelastic_otel import semconv
from torchelastic_otel.model.event import ElasticEvent
from torchelastic_otel.model.phases import Phase
from torchelastic_otel.model.span import ElasticSpan
from torchelastic_otel.processing.tracing import TraceState, finish_orphaned, reduce

WHY = "the agent's process disappeared without reporting an end"
FIRST = [("rendezvous", 0, 2), ("assign_ranks", 2, 3), ("start_workers", 3, 4), ("round", 0, 4)]
RAN = [("workers", 4, 50), ("training", 4, 50)]


def killed(story: Story) -> list[ElasticSpan]:
    """The agent's process is gone; whoever adopts its spool tells what is left, once."""
    narrative = TraceState.from_json(story.narrative.to_json())
    after, spans = finish_orphaned(narrative)
    again, nothing = finish_orphaned(TraceState.from_json(after.to_json()))
    assert (nothing, again) == ((), after)
    story.narrative = after
    story.spans += spans
    return list(spans)


LIVES = {
    Phase.RENDEZVOUS: [("rendezvous", 0, 1), ("round", 0, 1)],
    Phase.ASSIGN_RANKS: [("rendezvous", 0, 2), ("assign_ranks", 2, 2), ("round", 0, 2)],
    Phase.START: [("rendezvous", 0, 2), ("assign_ranks", 2, 3), ("start_workers", 3, 3), ("round", 0, 3)],
    Phase.RUNNING: [*FIRST, ("workers", 4, 9), ("training", 4, 9)],
    Phase.DETECT: [*FIRST, ("workers", 4, 50), ("training", 4, 50)],
    Phase.STOP: [*FIRST, *RAN, ("stop_workers", 51, 51)],
    Phase.EXIT_BARRIER: [*FIRST, *RAN],
    Phase.ENDED: [*FIRST, *RAN],
}


@pytest.mark.parametrize("phase", LIVES)
def test_what_a_killed_agent_left_open_ends_as_an_error_with_its_last_sign(phase: Phase) -> None:
    """SIGKILL, a power cut, a node that is gone: the trace says so, and no span stays open."""
    story = Story()
    story.begin(0, hosts=True)
    story.say(1, semconv.RENDEZVOUS_PARTICIPANT_ADDED, rendezvous_round=0)
    if phase is not Phase.RENDEZVOUS:
        story.enter(2, Phase.ASSIGN_RANKS, rendezvous_round=0, group_rank=0, group_world_size=1)
    if phase not in (Phase.RENDEZVOUS, Phase.ASSIGN_RANKS):
        story.enter(3, Phase.START)
    if phase not in (Phase.RENDEZVOUS, Phase.ASSIGN_RANKS, Phase.START):
        story.enter(4, Phase.RUNNING)
        story.round_started(4, 0, 0)
    if phase is Phase.RUNNING:
        story.say(9, semconv.RENDEZVOUS_KEEP_ALIVE_SENT)
    if phase in (Phase.DETECT, Phase.STOP):
        story.fail(50)
    if phase in (Phase.STOP, Phase.EXIT_BARRIER, Phase.ENDED):
        story.enter({Phase.STOP: 51}.get(phase, 50), phase)
    spans = killed(story)
    assert times(story.spans) == LIVES[phase]
    open_at_the_end = [span for span in spans if span.end_ns == max(each.end_ns for each in spans)]
    if phase in (Phase.RENDEZVOUS, Phase.ASSIGN_RANKS, Phase.START, Phase.RUNNING, Phase.DETECT):
        assert [span.error for span in open_at_the_end].count(WHY) >= 2
    check(story)


def test_of_several_agents_the_one_that_dies_tells_no_root_that_another_tells() -> None:
    """Nothing twice: who spoke for all and lives tells the roots."""
    host, peer = Story("a"), Story("b")
    for rank, story in enumerate((host, peer)):
        story.begin(0, hosts=story is host)
        story.join(2, 0, rank=rank, size=2)
    host.round_started(5, 0, 0, size=2)
    killed(peer)
    host.enter(30, Phase.STOP)
    host.enter(31, Phase.ENDED)
    names = [span.name for story in (host, peer) for span in story.spans]
    assert (names.count(semconv.SPAN_ROUND), names.count(semconv.SPAN_TRAINING)) == (1, 1)
    check(host, peer)


def test_who_takes_the_place_of_a_lost_speaker_tells_the_root_of_the_running() -> None:
    """With a store of its own the job goes on without the node that spoke for all."""
    speaker, heir = Story("a"), Story("b")
    for rank, story in enumerate((speaker, heir)):
        story.begin(0)
        story.join(2, 0, rank=rank, size=2)
    speaker.round_started(5, 0, 0, size=2)
    killed(speaker)
    heir.say(20, semconv.AGENT_LOST, writer=True, rendezvous_round=0, peer_node_id="a_1_0")
    heir.enter(30, Phase.STOP)
    heir.enter(31, Phase.ENDED)
    names = [span.name for story in (speaker, heir) for span in story.spans]
    assert (names.count(semconv.SPAN_ROUND), names.count(semconv.SPAN_TRAINING)) == (1, 1)
    check(speaker, heir)


def test_a_round_that_was_over_when_it_was_told_does_not_take_the_word_in_the_next() -> None:
    """The start of a short round may be said when the next one runs."""
    story = Story()
    story.begin(0, hosts=True)
    story.join(2, 0)
    story.fail(5)
    story.enter(5, Phase.STOP)
    story.enter(6, Phase.RENDEZVOUS)
    story.join(7, 1)
    story.agree(9, 1, writer=True)
    story.round_started(9, 1, 5)
    story.round_started(10, 0, 0)
    story.enter(20, Phase.ENDED)
    assert [span.name for span in story.spans].count(semconv.SPAN_ROUND) == 2
    (training,) = [span for span in story.spans if span.name == semconv.SPAN_TRAINING]
    assert training.attributes[semconv.RENDEZVOUS_ROUND] == 1


class Job:
    """Agents that go through rounds together, as torch's do; the first one hosts the store and speaks for all."""

    def __init__(self, count: int) -> None:
        self.stories = [Story(f"agent {number}", adopted=False) for number in range(count)]
        self.alive = list(self.stories)
        self.round = 0
        self.at = 0.0
        for story in self.stories:
            story.begin(self._tick(), hosts=story is self.stories[0])

    def _tick(self) -> float:
        self.at += 1
        return self.at

    def bring_up(self, *, dies: int | None, phase: Phase | None) -> None:
        """The living join the next round; one of them may be killed on the way."""
        began = self.at
        size = len(self.alive)
        for rank, story in enumerate(list(self.alive)):
            dying = story is self.stories[dies] if dies is not None else False
            story.say(self._tick(), semconv.RENDEZVOUS_PARTICIPANT_ADDED, rendezvous_round=self.round)
            if dying and phase is Phase.RENDEZVOUS:
                self.kill(story)
                continue
            told = {"rendezvous_round": self.round, "group_rank": rank, "group_world_size": size}
            story.enter(self._tick(), Phase.ASSIGN_RANKS, **told)
            if self.round:
                story.agree(self.at, self.round, writer=story is self.stories[0])
            story.enter(self._tick(), Phase.START)
            if dying and phase is Phase.START:
                self.kill(story)
                continue
            story.enter(self._tick(), Phase.RUNNING)
        self.stories[0].round_started(self._tick(), self.round, began, size=size)

    def restart(self, *, fails: int | None) -> None:
        """The running ends on all nodes: a worker failed on one of them, or the membership changed."""
        for story in self.alive:
            if fails is not None and story is self.stories[fails]:
                story.fail(self._tick())
                story.enter(self._tick(), Phase.STOP)
                story.say(self._tick(), semconv.RESTART_STARTED, restart_count=1)
            else:
                story.say(self._tick(), semconv.RESTART_STARTED, restart_count=0)
                story.enter(self._tick(), Phase.STOP)
            story.enter(self._tick(), Phase.RENDEZVOUS)
        self.round += 1

    def kill(self, story: Story) -> None:
        """One agent's process is gone."""
        killed(story)
        self.alive.remove(story)

    def end(self, how: str) -> None:
        """The job ends: all workers succeed, or fail for the last time."""
        for story in self.alive:
            if how == "succeeded":
                story.enter(self._tick(), Phase.EXIT_BARRIER)
            else:
                story.fail(self._tick())
                story.enter(self._tick(), Phase.STOP)
            story.enter(self._tick(), Phase.ENDED, agent_outcome=how)

    def time_out(self) -> None:
        """The job ends in a rendezvous that nobody completes."""
        for story in self.alive:
            story.say(self._tick(), semconv.RENDEZVOUS_PARTICIPANT_ADDED, rendezvous_round=self.round)
            story.enter(self._tick(), Phase.ENDED, agent_outcome="error", error_type="RendezvousTimeoutError")


@settings(deadline=None)
@given(st.data())
def test_all_agents_together_tell_each_span_once_and_none_without_its_parent(data: st.DataObject) -> None:
    """Who is killed when, who fails where and how the job ends: the spans of all nodes are whole traces."""
    count = data.draw(st.integers(1, 3), "agents")
    job = Job(count)
    for _ in range(data.draw(st.integers(0, 3), "rounds")):
        # the host of the store is never killed alone: with it, the job ends
        mortal = [number for number in range(1, count) if job.stories[number] in job.alive]
        dies = data.draw(st.sampled_from([None, *mortal]), "dies")
        phase = data.draw(st.sampled_from([Phase.RENDEZVOUS, Phase.START]), "in")
        job.bring_up(dies=dies, phase=phase)
        mortal = [number for number in range(1, count) if job.stories[number] in job.alive]
        dies = data.draw(st.sampled_from([None, *mortal]), "dies later")
        if dies is not None:
            job.kill(job.stories[dies])
        alive = [number for number in range(count) if job.stories[number] in job.alive]
        job.restart(fails=data.draw(st.sampled_from([None, *alive]), "fails"))
    how = data.draw(st.sampled_from(["succeeded", "failed", "timed out", "killed", "killed later"]), "ends")
    if how == "timed out":
        job.time_out()
    elif how == "killed":
        for story in list(job.alive):
            job.kill(story)
    else:
        job.bring_up(dies=None, phase=None)
        if how == "killed later":
            for story in list(job.alive):
                job.kill(story)
        else:
            job.end(how)
    check(*job.stories)


names = st.sampled_from(sorted(value for value in vars(semconv).values() if isinstance(value, str) and "." in value))
values = st.one_of(
    st.text(max_size=8),
    st.booleans(),
    st.integers(-(1 << 70), 1 << 70),
    st.floats(),
    st.lists(st.text(max_size=3), max_size=2).map(tuple),
    st.sampled_from([phase.value for phase in Phase]),
)
KEYS = [
    semconv.PHASE,
    semconv.RENDEZVOUS_ROUND,
    semconv.GROUP_RANK,
    semconv.GROUP_WORLD_SIZE,
    semconv.NODE_ID,
    semconv.AGENT_ID,
    semconv.RUN_ID,
    semconv.RUN_NONCE,
    semconv.INFERRED_FROM,
    semconv.HOSTS_STORE,
    semconv.RESTART_REASON,
    semconv.RESTART_COUNT,
    semconv.WRITER,
    semconv.ROUND_BEGAN,
    semconv.ROUND_DURATION,
    semconv.INFERRED,
    semconv.AGENT_OUTCOME,
    semconv.ERROR_TYPE,
    semconv.RENDEZVOUS_LAST_JOINER,
    semconv.RENDEZVOUS_BACKEND,
    semconv.EXCEPTION_MESSAGE,
]
FREQUENT = [
    semconv.AGENT_STARTED,
    semconv.RUN_IDENTIFIED,
    semconv.ROUND_STARTED,
    semconv.RESTART_STARTED,
    semconv.RESTART_CAUSE_AGREED,
    semconv.WORKER_FAILED,
    semconv.AGENT_LOST,
    *[semconv.AGENT_PHASE_ENTERED] * 5,
]
told = st.fixed_dictionaries({}, optional=dict.fromkeys(KEYS, values))
stamps = st.integers(-(1 << 63), 1 << 63)
anything = st.builds(
    ElasticEvent,
    name=st.one_of(st.sampled_from(FREQUENT), names),
    destination=st.just("null"),
    body=st.text(max_size=8),
    time_ns=st.one_of(st.none(), stamps),
    observed_ns=stamps,
    monotonic_ns=st.one_of(st.none(), stamps),
    attributes=told,
)


def phases(event: ElasticEvent, phase: Phase | None) -> ElasticEvent:
    """The event, entering a real phase if it enters any."""
    if event.name != semconv.AGENT_PHASE_ENTERED or phase is None:
        return event
    attributes: dict[str, Any] = {**event.attributes, semconv.PHASE: phase.value}
    return ElasticEvent(
        event.name, "null", event.body, event.time_ns, event.observed_ns, event.monotonic_ns, attributes=attributes
    )


@settings(deadline=None)
@given(st.lists(st.builds(phases, anything, st.one_of(st.none(), st.sampled_from(Phase))), max_size=20))
def test_no_events_make_it_stumble_and_it_can_be_gone_on_with_after_each(events: list[ElasticEvent]) -> None:
    """A replay of another version's, a broken clock, a user's own: it must cost no event, and no agent its spool."""
    narrative = TraceState()
    spans: list[ElasticSpan] = []
    for event in events:
        narrative, after = reduce(narrative, event)
        assert (after.event.name, after.event.attributes) == (event.name, event.attributes)
        spans += after.spans
        written = narrative.to_json()
        assert TraceState.from_json(written).to_json() == written
        for each in after.events:
            each.to_json()
    spans += finish_orphaned(narrative)[1]
    for span in spans:
        assert span.start_ns <= span.end_ns
        assert ElasticSpan.from_json(span.to_json()).to_json() == span.to_json()


@pytest.mark.parametrize("line", ["", "null", "[]", "{}", '{"phase": 5}', '{"agent_id": "a"}'])
def test_what_is_no_narrative_is_said_to_be_none(line: str) -> None:
    """A spool of another version is set aside, never a crash."""
    with pytest.raises(ValueError):
        TraceState.from_json(line)
