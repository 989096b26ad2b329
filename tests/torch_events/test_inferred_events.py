"""What our hooks say, on its way through the spool."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.observers import moment
from torchelastic_otel import semconv
from torchelastic_otel.model.event import AttributeValue, ElasticEvent, Severity
from torchelastic_otel.model.inferred_event import ClockReading, InferredEvent
from torchelastic_otel.torch_events.inferred_events import is_inferred
from torchelastic_otel.torch_events.parser import parse

NAMES = [
    semconv.AGENT_STARTED,
    semconv.RUN_IDENTIFIED,
    semconv.AGENT_PHASE_ENTERED,
    semconv.AGENT_LOST,
    semconv.AGENT_SILENT,
    semconv.AGENT_LEAVING,
    semconv.WORKER_EXITED,
    semconv.WORKER_FAILED,
    semconv.TRAINING_STARTED,
    semconv.RESTART_STARTED,
    semconv.RESTART_CAUSE_AGREED,
    semconv.RESTART_COMPLETED,
    semconv.MEMBERSHIP_CHANGED,
    semconv.RENDEZVOUS_WAITING,
    semconv.ROUND_STARTED,
]


def read(event: InferredEvent) -> ElasticEvent:
    """The event that is made of a event."""
    return parse(event.to_text(), "null", time_ns=10, observed_ns=11, monotonic_ns=12)


def test_a_fact_comes_back_as_an_event_that_says_it_was_inferred() -> None:
    """Nobody must take what we conclude for what torch said."""
    attributes: dict[str, AttributeValue] = {
        semconv.RUN_ID: "r",
        semconv.NODES_MIN: 1,
        semconv.LOCAL_WORLD_SIZE: 2,
        semconv.RESTARTS_MAX: 0,
    }
    event = read(InferredEvent(semconv.AGENT_STARTED, attributes))
    assert event == ElasticEvent(
        semconv.AGENT_STARTED,
        "null",
        "Agent started: 1 to None nodes, 2 workers on this node, at most 0 restarts",
        10,
        11,
        12,
        Severity.INFO,
        {semconv.INFERRED: True, **attributes},
    )


def test_when_it_happened_is_kept_by_both_clocks() -> None:
    """A failure that is noticed late keeps the moment at which it was."""
    event = read(InferredEvent(semconv.WORKER_EXITED, at=moment(1.5)))
    assert (event.time_ns, event.monotonic_ns, event.observed_ns) == (moment(1.5).wall_ns, moment(1.5).monotonic_ns, 11)


@pytest.mark.parametrize(
    ("name", "severity"),
    [
        (semconv.WORKER_FAILED, Severity.ERROR),
        (semconv.AGENT_LOST, Severity.WARN),
        (semconv.AGENT_SILENT, Severity.INFO),
        (semconv.AGENT_LEAVING, Severity.WARN),
        (semconv.RESTART_STARTED, Severity.WARN),
        (semconv.RESTART_CAUSE_AGREED, Severity.DEBUG),
        (semconv.MEMBERSHIP_CHANGED, Severity.WARN),
        (semconv.RENDEZVOUS_WAITING, Severity.WARN),
        (semconv.AGENT_PHASE_ENTERED, Severity.DEBUG),
        (semconv.WORKER_EXITED, Severity.DEBUG),
        (semconv.ROUND_STARTED, Severity.INFO),
    ],
)
def test_severities_are_as_bad_as_what_happened(name: str, severity: Severity) -> None:
    """Alerts go by severity: failures ERROR, node loss and restarts WARN."""
    assert read(InferredEvent(name)).severity is severity


def test_what_is_not_known_is_left_out_and_nothing_else() -> None:
    """A nought is a value: rank 0 and exit code 0 are told."""
    told: dict[str, Any] = {"none": None, "empty": "", "no": (), "rank": 0, "false": False, "many": ("a",)}
    event = read(InferredEvent(semconv.WORKER_EXITED, told))
    assert event.attributes == {semconv.INFERRED: True, "rank": 0, "false": False, "many": ("a",)}


def test_an_error_file_is_told_as_torch_would_have_told_it() -> None:
    """The traceback of a failure that led to a restart is nowhere in torch's events."""
    file = {"message": {"message": "ValueError: bad", "extraInfo": {"py_callstack": "Traceback ..."}}}
    event = read(InferredEvent(semconv.WORKER_FAILED, {semconv.WORKER_RANK: 1}, error_file=json.dumps(file)))
    assert event.attributes[semconv.EXCEPTION_TYPE] == "ValueError"
    assert event.attributes[semconv.ERROR_TYPE] == "ValueError"
    assert event.attributes[semconv.EXCEPTION_MESSAGE] == "bad"
    assert event.attributes[semconv.EXCEPTION_STACKTRACE] == "Traceback ..."


@pytest.mark.parametrize("form", ["{}", '{{"message":{}}}', '{{"message":{{"message":{}}}}}'])
@pytest.mark.parametrize("depth", [*range(100, 1_100, 50), 100_000])
def test_an_error_file_of_any_depth_is_told(form: str, depth: int) -> None:
    """A worker writes what it likes: what Python does not read, or reads and does not write, is told as it is."""
    for brackets in ("[" * depth, "[" * depth + "]" * depth):
        event = read(InferredEvent(semconv.WORKER_FAILED, error_file=form.format(brackets)))
        assert "[[[[" in str(event.attributes[semconv.EXCEPTION_MESSAGE])


@pytest.mark.parametrize(
    ("told", "kind"), [({semconv.WORKER_SIGNAL: "SIGKILL"}, "SIGKILL"), ({semconv.PROCESS_EXIT_CODE: 3}, "exit")]
)
def test_a_failure_always_has_a_type(told: dict[str, Any], kind: str) -> None:
    """``error.type`` is what errors are grouped by."""
    assert read(InferredEvent(semconv.WORKER_FAILED, told)).attributes[semconv.ERROR_TYPE] == kind


def test_an_endless_error_is_bounded_and_broken_text_mended() -> None:
    """One lone surrogate fails a whole batch, one endless text fills a spool (promise 8)."""
    event = read(
        InferredEvent(semconv.WORKER_EXITED, {"a": "x" * 10**6, "b": "\ud800", "c": ("y" * 10**6,), "k" * 10**6: 1})
    )
    assert len(event.to_json()) < 20_000
    event.to_json().encode()
    for key, value in event.attributes.items():
        (key + "".join(value if isinstance(value, (str, tuple)) else "")).encode()


@given(
    st.sampled_from(NAMES),
    st.dictionaries(
        st.one_of(st.sampled_from(sorted(v for v in vars(semconv).values() if isinstance(v, str))), st.text()),
        st.one_of(st.none(), st.text(), st.booleans(), st.integers(), st.floats(), st.lists(st.text()).map(tuple)),
        max_size=12,
    ),
    st.one_of(st.none(), st.builds(ClockReading, st.integers(), st.integers())),
    st.one_of(st.none(), st.text()),
)
def test_every_fact_can_be_written_and_read(
    name: str, attributes: dict[str, Any], at: ClockReading | None, error_file: str | None
) -> None:
    """A sentence that stumbles over an attribute would cost the event that it was to explain."""
    text = InferredEvent(name, attributes, at, error_file).to_text()
    event = parse(text, "null", time_ns=1, observed_ns=2, monotonic_ns=3)
    assert (event.name, event.attributes[semconv.INFERRED]) == (name, True)
    assert event.body
    assert ElasticEvent.from_json(event.to_json()).name == name


@given(
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.text()),
        lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner, max_size=3)),
    ),
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.text()),
        lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner, max_size=3)),
    ),
)
def test_what_only_looks_like_a_fact_raises_nothing(attributes: Any, at: Any) -> None:
    """A user may record anything, our key included."""
    text = json.dumps({"torchelastic_otel": "x", "attributes": attributes, "at": at, "error_file": at})
    assert parse(text, "null", time_ns=1, observed_ns=2).name == "x"


@pytest.mark.parametrize("recorded", [None, 5, "x", [], {}, {"torchelastic_otel": 5}, {"name": "x"}])
def test_what_torch_records_is_no_fact(recorded: object) -> None:
    """Torch's own events must not be taken for ours."""
    assert not is_inferred(recorded)
