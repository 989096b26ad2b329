"""Events and their JSON, without torch."""

from __future__ import annotations

import copy
import json
from dataclasses import asdict, dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchelastic_otel.events import Event, EventSource, NodeState, RdzvEvent

EVENT = Event(name="saved", source=EventSource.AGENT, metadata={"text": "é", "int": 2, "float": 1.5, "none": None})
RDZV = RdzvEvent(
    name="file.py:join",
    run_id="run",
    message="joins",
    hostname="node-1",
    pid=7,
    node_state=NodeState.FAILED,
    master_endpoint="node-0:29400",
    rank=3,
    local_id=4,
    error_trace="Traceback",
)


def test_event_defaults_are_no_time_and_no_metadata() -> None:
    """Torch's agents give no timestamp, and readers know 0 as "not said"."""
    assert Event("saved", EventSource.WORKER) == Event("saved", EventSource.WORKER, timestamp=0, metadata={})


def test_metadata_is_not_shared_between_events() -> None:
    """One event's metadata must not turn up in the next one."""
    first, second = Event("a", EventSource.WORKER), Event("b", EventSource.WORKER)
    first.metadata["key"] = 1
    assert second.metadata == {}


def test_rdzv_event_needs_six_fields_and_knows_nothing_else() -> None:
    """A node that has not joined has no rank, and a healthy one no traceback."""
    event = RdzvEvent("file.py:f", "run", "message", "host", 1, NodeState.INIT)
    assert (event.master_endpoint, event.rank, event.local_id, event.error_trace) == ("", None, None, "")


def test_event_is_written_as_one_json_object_in_the_order_of_its_fields() -> None:
    """Readers of the stream compare lines."""
    assert EVENT.serialize() == (
        '{"name": "saved", "source": "AGENT", "timestamp": 0, '
        '"metadata": {"text": "\\u00e9", "int": 2, "float": 1.5, "none": null}}'
    )


@pytest.mark.parametrize("event", [EVENT, RDZV])
def test_str_is_the_json(event: Event | RdzvEvent) -> None:
    """What a person prints is what a program reads."""
    assert str(event) == event.serialize() == json.dumps(asdict(event))


@pytest.mark.parametrize("event", [EVENT, RDZV])
def test_attribute_that_is_no_field_is_not_written(event: Event | RdzvEvent) -> None:
    """A reader refuses what it does not know."""
    marked: Any = copy.copy(event)
    marked.seen = True
    assert marked.serialize() == event.serialize()


@pytest.mark.parametrize("event", [EVENT, RDZV])
def test_event_comes_back_from_its_json(event: Event | RdzvEvent) -> None:
    """A stream that was written can be replayed."""
    back: Event | RdzvEvent = type(event).deserialize(event.serialize())
    assert back == event
    assert type(back) is type(event)


def test_enums_come_back_as_members() -> None:
    """Callers compare by identity."""
    assert Event.deserialize(EVENT.serialize()).source is EventSource.AGENT
    assert RdzvEvent.deserialize(RDZV.serialize()).node_state is NodeState.FAILED


def test_event_that_is_one_already_comes_back_itself() -> None:
    """Callers hand over either form, as they may with torch's."""
    assert Event.deserialize(EVENT) is EVENT
    assert RdzvEvent.deserialize(RDZV) is RDZV


@dataclass
class Foreign:
    """Another package's event: all that is known of it is ``serialize()``."""

    text: str

    def serialize(self) -> str:
        """The text it was given."""
        return self.text


def test_event_of_another_package_becomes_ours() -> None:
    """Torch's own objects are taken where ours are."""
    event: Any = Foreign(EVENT.serialize())
    rdzv_event: Any = Foreign(RDZV.serialize())
    assert Event.deserialize(event) == EVENT
    assert RdzvEvent.deserialize(rdzv_event) == RDZV


@pytest.mark.parametrize("kind", [Event, RdzvEvent])
@pytest.mark.parametrize("data", [None, 3, b"{}", {"name": "saved"}])
def test_what_is_no_event_is_a_type_error_that_says_what_is(kind: Any, data: object) -> None:
    """The caller learns what was given and what is taken."""
    with pytest.raises(TypeError, match=rf"cannot read an event from {type(data).__name__} .*serialize\(\)"):
        kind.deserialize(data)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("{", json.JSONDecodeError),
        ('{"name": "n"}', KeyError),
        ('{"name": "n", "source": "CLERK"}', KeyError),
        ('{"source": "AGENT"}', TypeError),
        ('{"name": "n", "source": "AGENT", "colour": "red"}', TypeError),
    ],
)
def test_broken_line_is_an_error_and_never_half_an_event(text: str, error: type[Exception]) -> None:
    """A reader that skips bad lines must see that they are bad."""
    with pytest.raises(error):
        Event.deserialize(text)


def test_members_are_their_values() -> None:
    """Torch's members, plain strings and ours are interchangeable."""
    values = {str(member.value) for kind in (EventSource, NodeState) for member in kind}
    assert values == {"AGENT", "WORKER", "INIT", "RUNNING", "SUCCEEDED", "FAILED"}
    assert json.dumps([NodeState.FAILED, EventSource.AGENT]) == '["FAILED", "AGENT"]'
    plain: Any = "FAILED"
    assert plain == NodeState.FAILED
    assert hash(plain) == hash(NodeState.FAILED)


@given(
    st.text(),
    st.dictionaries(st.text(), st.text() | st.integers() | st.floats(allow_nan=False) | st.booleans() | st.none()),
)
def test_any_name_and_metadata_come_back(name: str, metadata: dict[str, Any]) -> None:
    """Nothing that fits into an event is lost in its JSON, and that is one line of ASCII."""
    event = Event(name, EventSource.WORKER, metadata=metadata)
    line = event.serialize()
    assert Event.deserialize(line) == event
    assert line.isascii()
    assert len(line.splitlines()) == 1
