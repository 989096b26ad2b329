"""From an agent's events to spans: what is told, when, and to which trace it belongs."""

from __future__ import annotations

from tests.support.history_events import NONCE, Story, check, times
from tests.support.observers import moment
from torchelastic_otel import semconv
from torchelastic_otel.model.phases import Phase
from torchelastic_otel.model.span import SpanEvent, SpanLink
from torchelastic_otel.model.trace_ids import BRING_UP, ROOT, RUNNING, RoundIds

IDS = [RoundIds(("run", NONCE), round_) for round_ in range(4)]


def first_round(story: Story, *, hosts: bool = True) -> None:
    """Joined at 2 s, running since 4 s; it speaks for all."""
    story.begin(0, hosts=hosts)
    story.join(2, 0)
    story.round_started(4, 0, 0)


def test_a_clean_run_is_two_whole_traces_that_lead_to_each_other() -> None:
    """Each trace arrives whole, soon after what it tells has happened; no span stays open for days."""
    story = Story()
    first_round(story)
    assert times(story.spans) == [
        ("rendezvous", 0, 2),
        ("assign_ranks", 2, 3),
        ("start_workers", 3, 4),
        ("round", 0, 4),
    ]
    assert {span.trace_id for span in story.spans} == {IDS[0].trace(BRING_UP)}
    bring_up = len(story.spans)
    story.enter(100, Phase.EXIT_BARRIER)
    story.enter(101, Phase.ENDED, agent_outcome="succeeded")
    assert times(story.spans[bring_up:]) == [("workers", 4, 100), ("training", 4, 100)]
    workers, training = story.spans[bring_up:]
    assert (workers.parent_id, training.parent_id) == (training.span_id, None)
    assert training.links == (SpanLink(IDS[0].trace(BRING_UP), IDS[0].span(BRING_UP, ROOT)),)
    assert [span.error for span in story.spans] == [None] * 6
    assert workers.attributes == {
        semconv.RUN_ID: "run",
        semconv.RENDEZVOUS_ROUND: 0,
        semconv.RENDEZVOUS_BACKEND: "c10d",
        semconv.GROUP_RANK: 0,
        semconv.GROUP_WORLD_SIZE: 1,
    }
    assert semconv.GROUP_RANK not in training.attributes
    check(story)


def test_a_failure_ends_the_running_as_an_error_and_is_where_the_next_bring_up_begins() -> None:
    """Who looks at a trace of a restart sees how long it took to notice, to stop and to come back."""
    story = Story()
    first_round(story)
    before = len(story.spans)
    story.fail(50)
    story.enter(51, Phase.STOP)
    story.say(51, semconv.RESTART_STARTED, restart_count=1)
    # failures may be reported until the workers are stopped
    assert story.spans[before:] == []
    story.enter(55, Phase.RENDEZVOUS)
    assert times(story.spans[before:]) == [("workers", 4, 50), ("training", 4, 50)]
    assert [span.error for span in story.spans[before:]] == [semconv.WORKER_FAILED] * 2
    assert [span.attributes.get(semconv.RESTART_COUNT) for span in story.spans[before:]] == [None] * 2
    before = len(story.spans)
    story.join(60, 1)
    story.agree(62, 1, writer=True)
    story.round_started(63, 1, 50)
    told = story.spans[before:]
    assert times(told) == [
        ("stop_workers", 51, 55),
        ("rendezvous", 55, 60),
        ("assign_ranks", 60, 61),
        ("start_workers", 61, 62),
        ("round", 50, 63),
    ]
    assert {span.trace_id for span in told} == {IDS[1].trace(BRING_UP)}
    assert told[-1].links == (SpanLink(IDS[0].trace(RUNNING), IDS[0].span(RUNNING, ROOT)),)
    assert told[-1].attributes[semconv.RESTART_REASON] == "worker_failure"
    assert all(span.attributes[semconv.RESTART_COUNT] == 1 for span in told)
    story.enter(70, Phase.EXIT_BARRIER)
    story.enter(70, Phase.ENDED)
    check(story)


def test_a_failure_that_is_reported_while_the_workers_are_stopped_is_in_their_span() -> None:
    """Who only waited for others is a victim, which is known once the others are stopped and their stacks are read."""
    story = Story()
    first_round(story)
    before = len(story.spans)
    story.enter(50, Phase.DETECT)
    story.enter(51, Phase.STOP)
    story.say(49, semconv.WORKER_FAILED, inferred=True, worker_rank=1, worker_pid=101)
    story.enter(55, Phase.ENDED, agent_outcome="failed")
    workers = story.spans[before]
    assert times([workers]) == [("workers", 4, 50)]
    assert workers.error == semconv.WORKER_FAILED
    assert [event.name for event in workers.events] == [semconv.WORKER_FAILED]
    check(story)


def test_a_restart_is_told_once_with_its_reason_and_the_time_of_each_phase() -> None:
    """The one record that the person on call is looking for."""
    story = Story()
    first_round(story)
    story.fail(50)
    story.enter(51, Phase.STOP)
    story.say(51, semconv.RESTART_STARTED, restart_count=1)
    story.enter(55, Phase.RENDEZVOUS)
    story.join(60, 1)
    assert story.more == []
    story.agree(63, 1)
    (completed,) = story.more
    assert completed.name == semconv.RESTART_COMPLETED
    assert (completed.time_ns, completed.monotonic_ns) == (moment(62).wall_ns, moment(62).monotonic_ns)
    assert (completed.trace_id, completed.span_id) == (IDS[1].trace(BRING_UP), IDS[1].span(BRING_UP, ROOT))
    told = completed.attributes
    phases = ("detect", "stop", "rendezvous", "assign_ranks", "start")
    assert [told[semconv.RESTART_PHASE_DURATION.format(phase=phase)] for phase in phases] == [1, 4, 5, 1, 1]
    assert told[semconv.RESTART_DURATION] == 12
    assert told[semconv.RESTART_REASON] == "worker_failure"
    assert (told[semconv.RESTART_INDEX], told[semconv.RESTART_COUNT], told[semconv.RENDEZVOUS_ROUND]) == (1, 1, 1)
    assert (told[semconv.INFERRED], told[semconv.RESTART_AGREED], told[semconv.RUN_ID]) == (True, True, "run")
    story.agree(64, 1)
    story.enter(70, Phase.EXIT_BARRIER)
    assert len(story.more) == 1


def test_the_cause_may_be_agreed_on_before_the_workers_run() -> None:
    """It usually is: the store answers in a millisecond, and starting workers takes longer."""
    story = Story()
    first_round(story)
    story.say(50, semconv.RESTART_STARTED, restart_count=0)
    story.enter(50, Phase.STOP)
    story.enter(55, Phase.RENDEZVOUS)
    story.enter(60, Phase.ASSIGN_RANKS, rendezvous_round=1, group_rank=0, group_world_size=1)
    story.agree(60.1, 1, reason="membership_change")
    assert story.more == []
    story.enter(61, Phase.START)
    story.enter(62, Phase.RUNNING)
    (completed,) = story.more
    assert completed.attributes[semconv.RESTART_REASON] == "membership_change"
    assert completed.attributes[semconv.RESTART_DURATION] == 12


def test_a_restart_that_failed_before_its_cause_was_known_is_told_all_the_same() -> None:
    """A worker that fails in its first second restarts again and again: one record for each of these."""
    story = Story()
    first_round(story)
    for number, at in enumerate((50, 70, 90), 1):
        story.fail(at)
        story.enter(at + 1, Phase.STOP)
        story.say(at + 1, semconv.RESTART_STARTED, restart_count=number)
        story.enter(at + 2, Phase.RENDEZVOUS)
        if number > 1:
            story.agree(at + 2.5, number - 1)  # the answer for the round before, too late
        story.join(at + 3, number)
    story.agree(96, 3)
    assert [e.attributes[semconv.RESTART_REASON] for e in story.more] == ["unknown", "unknown", "worker_failure"]
    assert [e.attributes[semconv.RENDEZVOUS_ROUND] for e in story.more] == [1, 2, 3]
    assert [e.attributes[semconv.RESTART_COUNT] for e in story.more] == [1, 2, 3]
    assert [e.attributes[semconv.RESTART_DURATION] for e in story.more] == [5, 5, 5]


def test_an_agent_that_comes_later_has_restarted_nothing() -> None:
    """A new node learns why the job restarted, but it was not there."""
    story = Story()
    story.begin(0)
    story.join(2, 7, rank=2, size=3)
    story.agree(4, 7)
    assert story.more == []
    assert {span.trace_id for span in story.spans} == {RoundIds(("run", NONCE), 7).trace(BRING_UP)}


def test_events_are_in_the_trace_and_the_span_in_which_they_happened() -> None:
    """Backends join logs to traces by these two ids."""
    story = Story()
    story.begin(0)
    listed = story.say(1, semconv.RENDEZVOUS_PARTICIPANT_ADDED, rendezvous_round=0)
    story.join(2, 0)
    story.round_started(4, 0, 0)
    failing = story.say(50, semconv.WORKER_EXITED, worker_rank=1)
    story.fail(50)
    stopping = story.enter(51, Phase.STOP)
    waiting = story.enter(52, Phase.RENDEZVOUS)

    def in_(which: str, name: str, round_: int = 0, agent: str = "a") -> tuple[str, str]:
        return IDS[round_].trace(which), IDS[round_].span(which, name, agent)

    def of(event: object) -> tuple[str, str]:
        return event.trace_id, event.span_id  # type: ignore[attr-defined]

    assert of(listed) == in_(BRING_UP, semconv.SPAN_RENDEZVOUS)
    assert of(failing) == of(stopping) == in_(RUNNING, semconv.SPAN_WORKERS)
    assert of(waiting) == in_(BRING_UP, semconv.SPAN_RENDEZVOUS, 1)
    (started,) = [event for event in story.events if event.name == semconv.ROUND_STARTED]
    assert of(started) == in_(BRING_UP, ROOT, 0, "")
    first = story.events[0]
    assert (first.name, first.trace_id, first.span_id) == (semconv.AGENT_STARTED, None, None)
    (rendezvous,) = [span for span in story.spans if span.name == semconv.SPAN_RENDEZVOUS]
    told = SpanEvent(semconv.RENDEZVOUS_PARTICIPANT_ADDED, moment(1).wall_ns, {semconv.RENDEZVOUS_ROUND: 0})
    assert told in rendezvous.events
    (workers,) = [span for span in story.spans if span.name == semconv.SPAN_WORKERS]
    assert [event.name for event in workers.events] == [semconv.WORKER_EXITED, semconv.WORKER_FAILED]


def test_heartbeats_are_in_no_span() -> None:
    """A training of a week would have a hundred thousand of them."""
    story = Story()
    first_round(story)
    for at in range(100):
        story.say(5 + at, semconv.RENDEZVOUS_KEEP_ALIVE_SENT)
        story.say(5 + at, semconv.RENDEZVOUS_STATE_SYNCED)
    story.enter(200, Phase.EXIT_BARRIER)
    assert [span.events for span in story.spans if span.name == semconv.SPAN_WORKERS] == [()]


def test_restarts_exhausted_is_a_stop_in_the_running_trace() -> None:
    """No bring-up follows that the stop could be part of."""
    story = Story()
    first_round(story)
    story.fail(50)
    story.enter(51, Phase.STOP)
    story.enter(55, Phase.ENDED, agent_outcome="failed")
    assert times(story.spans[4:]) == [("workers", 4, 50), ("training", 4, 50), ("stop_workers", 51, 55)]
    assert {span.trace_id for span in story.spans[4:]} == {IDS[0].trace(RUNNING)}
    check(story)


def test_a_rendezvous_that_times_out_is_a_bring_up_that_failed() -> None:
    """The attempt is what there is to see; it ends with its error."""
    story = Story()
    story.begin(0, hosts=True)
    story.say(1, semconv.RENDEZVOUS_PARTICIPANT_ADDED, rendezvous_round=0)
    story.enter(60, Phase.ENDED, agent_outcome="error", error_type="RendezvousTimeoutError")
    assert times(story.spans) == [("rendezvous", 0, 60), ("round", 0, 60)]
    assert [span.error for span in story.spans] == ["error: RendezvousTimeoutError"] * 2
    check(story)


def test_who_was_never_let_in_has_a_trace_of_its_own() -> None:
    """An agent that comes when the rendezvous is closed has no part in anybody's round, least of all in the first."""
    first, late = Story("a"), Story("b")
    first_round(first)
    first.enter(90, Phase.EXIT_BARRIER)
    first.enter(91, Phase.ENDED)
    late.begin(95)
    late.enter(96, Phase.ENDED, agent_outcome="error", error_type="RendezvousClosedError")
    assert times(late.spans) == [("rendezvous", 95, 96), ("round", 95, 96)]
    assert not {span.trace_id for span in late.spans} & {span.trace_id for span in first.spans}
    check(first, late)


def test_agents_without_a_store_tell_whole_traces_of_their_own() -> None:
    """Torch before 2.4, etcd, or a store that does not answer: each node's own view, and no half of a trace."""
    stories = [Story("a"), Story("b")]
    for number, story in enumerate(stories):
        story.begin(0, nonce=str(number) * 32, store=False)
        story.join(2, 0, rank=number, size=2)
        if number == 0:
            story.round_started(4, 0, 0, size=2)
        story.fail(50)
        story.enter(51, Phase.STOP)
        story.say(51, semconv.RESTART_STARTED, restart_count=1)
        story.enter(55, Phase.RENDEZVOUS)
        story.join(60, 1, rank=number, size=2)
        story.agree(62, 1, writer=number == 0)
        story.enter(90, Phase.EXIT_BARRIER)
        story.enter(91, Phase.ENDED)
        assert [span.name for span in story.spans].count(semconv.SPAN_ROUND) == 2
        assert [span.name for span in story.spans].count(semconv.SPAN_TRAINING) == 2
    check(*stories)


def test_the_root_of_a_running_is_the_part_of_who_speaks_and_others_may_be_longer() -> None:
    """Nobody waits for the others to end: a root that came last would be lost with whoever was to tell it."""
    speaker, longer = Story("a"), Story("b")
    for rank, story in enumerate((speaker, longer)):
        story.begin(0, hosts=story is speaker)
        story.join(2 - rank, 0, rank=rank, size=2)
    speaker.round_started(5, 0, 0, size=2)
    speaker.enter(30, Phase.EXIT_BARRIER)
    root = next(span for span in speaker.spans if span.name == semconv.SPAN_TRAINING)
    longer.fail(50)
    longer.enter(51, Phase.STOP)
    for story in (speaker, longer):
        story.enter(60, Phase.ENDED)
    parts = [span for story in (speaker, longer) for span in story.spans if span.name == semconv.SPAN_WORKERS]
    assert times([root, *parts]) == [("training", 4, 30), ("workers", 4, 30), ("workers", 3, 50)]
    assert {(part.trace_id, part.parent_id) for part in parts} == {(root.trace_id, root.span_id)}
    assert [span.error is not None for span in (root, *parts)] == [False, False, True]
    check(speaker, longer)


def test_under_static_the_run_is_known_only_after_the_workers_run_and_nothing_is_lost() -> None:
    """Its store comes with the first rendezvous; starting workers takes less time than asking it."""
    stories = [Story("a", backend="static"), Story("b", backend="static")]
    for rank, story in enumerate(stories):
        story.begin(0, nonce=None)
        story.join(2, 0, rank=rank, size=2)
        story.say(4.1, semconv.WORKER_EXITED, worker_rank=0)
        assert story.spans == []
        story.identify(4.2, hosts=rank == 0)
        assert times(story.spans) == [("rendezvous", 0, 2), ("assign_ranks", 2, 3), ("start_workers", 3, 4)]
        if rank == 0:
            story.round_started(4.3, 0, 0, size=2)
        story.enter(90, Phase.EXIT_BARRIER)
        story.enter(91, Phase.ENDED)
        (workers,) = [span for span in story.spans if span.name == semconv.SPAN_WORKERS]
        assert [event.name for event in workers.events] == [semconv.WORKER_EXITED, semconv.RUN_IDENTIFIED]
    check(*stories)


def test_a_run_that_is_identified_too_late_goes_without_a_trace_and_tells_no_half_of_one() -> None:
    """It is waited for while the workers run, no longer; what comes after is told."""
    story = Story()
    story.begin(0, nonce=None)
    story.join(2, 0)
    story.fail(5)
    story.enter(6, Phase.STOP)
    story.enter(7, Phase.RENDEZVOUS)
    story.identify(8, hosts=True)
    assert story.spans == []
    story.join(9, 1)
    story.round_started(11, 1, 5)
    names = [
        ("stop_workers", 6, 7),
        ("rendezvous", 7, 9),
        ("assign_ranks", 9, 10),
        ("start_workers", 10, 11),
        ("round", 5, 11),
    ]
    assert times(story.spans) == names
    story.enter(20, Phase.EXIT_BARRIER)
    story.enter(20, Phase.ENDED)
    check(story, whole=False)


def test_an_agent_that_restarts_in_a_way_of_its_own_tells_the_running_all_the_same() -> None:
    """Projects override how workers are stopped; then no stop is seen."""
    story = Story()
    first_round(story)
    before = len(story.spans)
    story.enter(50, Phase.RENDEZVOUS)
    assert times(story.spans[before:]) == [("workers", 4, 50), ("training", 4, 50)]
    story.join(52, 1)
    story.round_started(54, 1, 50)
    story.enter(60, Phase.RUNNING)
    story.enter(70, Phase.ENDED)
    check(story, whole=False)


def test_phases_that_come_twice_in_a_bring_up_are_told_apart() -> None:
    """A span id is used once, whatever an agent does."""
    story = Story()
    story.begin(0, hosts=True)
    story.enter(1, Phase.STOP)
    story.enter(2, Phase.RENDEZVOUS)
    story.enter(3, Phase.STOP)
    story.enter(4, Phase.RENDEZVOUS)
    story.join(5, 0)
    story.round_started(7, 0, 0)
    story.enter(9, Phase.ENDED)
    assert [span.name for span in story.spans].count(semconv.SPAN_RENDEZVOUS) == 3
    check(story)


def test_a_wall_clock_that_is_set_back_makes_nothing_negative_and_no_duration_wrong() -> None:
    """Clocks are corrected in the middle of jobs; durations go by the monotonic one."""
    story = Story()
    first_round(story)
    story.fail(50)
    story.stepped_s = -40
    story.enter(51, Phase.STOP)
    story.say(51, semconv.RESTART_STARTED, restart_count=1)
    story.enter(55, Phase.RENDEZVOUS)
    story.join(60, 1)
    story.agree(62, 1)
    story.round_started(63, 1, 10)
    story.enter(70, Phase.EXIT_BARRIER)
    story.enter(71, Phase.ENDED)
    (completed,) = story.more
    assert completed.attributes[semconv.RESTART_DURATION] == 12
    parts = [span for span in story.spans if span.trace_id == IDS[1].trace(BRING_UP) and span.parent_id]
    assert [part.start_ns for part in parts[1:]] == [part.end_ns for part in parts[:-1]]
    check(story)


def test_a_second_agent_of_the_process_has_a_story_of_its_own() -> None:
    """A notebook launches one job after another."""
    story = Story()
    first_round(story)
    story.enter(50, Phase.ENDED)
    before = len(story.spans)
    story.agent = "b"
    story.begin(60, nonce="6" * 32, hosts=True)
    story.join(62, 0)
    story.round_started(64, 0, 60)
    story.enter(70, Phase.ENDED)
    assert {span.trace_id for span in story.spans[:before]}.isdisjoint(span.trace_id for span in story.spans[before:])
    check(story)


def test_what_it_remembers_does_not_grow_with_restarts() -> None:
    """It goes into the spool with every batch, for as long as the job lives."""
    story = Story(adopted=False)
    first_round(story)
    sizes = []
    for number in range(1, 200):
        at = number * 100
        story.fail(at)
        for rank in range(100):
            story.say(at, semconv.WORKER_EXITED, worker_rank=rank, exception_message="x" * 4_000)
        story.enter(at + 1, Phase.STOP)
        story.say(at + 1, semconv.RESTART_STARTED, restart_count=number)
        story.enter(at + 2, Phase.RENDEZVOUS)
        story.join(at + 3, number)
        story.agree(at + 5, number, writer=True)
        story.round_started(at + 5, number, at)
        sizes.append(len(story.narrative.to_json()))
    assert max(sizes[50:]) < 1.1 * max(sizes[:50]) < 64 * 1024
    check(story, whole=False)


def test_a_bring_up_that_never_ends_is_bounded() -> None:
    """An agent whose start of workers we cannot see rendezvouses for ever, as it seems."""
    story = Story()
    story.begin(0)
    for at in range(500):
        story.enter(at, Phase.STOP)
        story.enter(at, Phase.RENDEZVOUS)
        story.enter(at, Phase.ASSIGN_RANKS, rendezvous_round=at, group_rank=0, group_world_size=1)
    assert len(story.narrative.to_json()) < 64 * 1024


def test_before_an_agent_is_made_events_are_left_as_they_are() -> None:
    """The drop-in records events of programs that have no agent at all."""
    story = Story()
    event = story.say(0, semconv.RENDEZVOUS_STORE_HOSTED)
    assert (event.trace_id, event.span_id, story.spans, story.narrative.phase) == (None, None, [], None)
