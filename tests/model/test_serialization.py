"""What is stored as JSON is read by older and newer versions of this package."""

from __future__ import annotations

import json

import pytest

from torchelastic_otel.model.cause import Cause
from torchelastic_otel.model.event import ElasticEvent, Origin, Severity
from torchelastic_otel.model.phases import Phase
from torchelastic_otel.model.span import ElasticSpan, SpanEvent, SpanLink
from torchelastic_otel.processing.enrichment import AgentContext
from torchelastic_otel.processing.metrics import MetricState
from torchelastic_otel.processing.tracing import TraceState
from torchelastic_otel.processing.tracing.state import OpenPhase

EVENT = ElasticEvent("a", "null", "b", None, 2, 3, Severity.ERROR, {"x": ("y", "z"), "n": 1, "f": 0.5, "b": True})
SPAN = ElasticSpan(
    "a", "0" * 32, "1" * 16, None, 1, 2, {"x": ("y",)}, (SpanEvent("e", 1, {"k": ("v",)}),), (SpanLink("t", "s"),), "no"
)
TRACE = TraceState(
    "a", phase=Phase.STOP, phases=(OpenPhase(Phase.STOP, 1), OpenPhase(Phase.START, 2, 3)), cause={"c": ("d",)}
)


@pytest.mark.parametrize(
    "data",
    [
        EVENT,
        Origin("id", "host", 1, 2, {"A": "b"}, {"c": ("d",)}),
        SPAN,
        TRACE,
        MetricState(5),
        AgentContext("r"),
        Cause("worker_failure", 1, rank=3),
    ],
    ids=lambda data: type(data).__name__,
)
def test_what_is_stored_comes_back_equal(data: ElasticEvent) -> None:
    """Types included: tuples, enums and nested data, from one line of ASCII."""
    line = data.to_json()
    assert line.isascii()
    assert "\n" not in line
    assert type(data).from_json(line) == data


def test_a_newer_version_may_add_fields() -> None:
    """A downgrade reads what the newer version wrote: unknown keys and trailing elements are ignored."""
    assert ElasticEvent.from_json(json.dumps([*json.loads(EVENT.to_json()), "new"])) == EVENT
    assert AgentContext.from_json(json.dumps([*json.loads(AgentContext("r").to_json()), "new"])) == AgentContext("r")
    for data in (TRACE, MetricState(5), Cause("node_left", 1)):
        assert type(data).from_json(json.dumps(json.loads(data.to_json()) | {"new": [1]})) == data  # type: ignore[attr-defined]


def test_an_older_version_may_lack_fields() -> None:
    """An upgrade reads what the older version wrote: a missing field has its default."""
    assert ElasticEvent.from_json(json.dumps(json.loads(EVENT.to_json())[:8])) == EVENT
    without = {key: value for key, value in json.loads(TRACE.to_json()).items() if key != "hosts_store"}
    assert TraceState.from_json(json.dumps(without)) == TRACE


def test_the_keys_on_disk_do_not_follow_the_names_of_fields() -> None:
    """Fields are renamed; stored keys never."""
    keys = {"parts", "failed", "writer_round", "ran_ns", "ran_monotonic_ns"}
    assert keys <= json.loads(TRACE.to_json()).keys()
    (run,) = json.loads(MetricState(5).to_json())["runs"]
    assert {"measured", "examples", "times", "beat_ns", "ever_spoke", "shown"} <= run.keys()
    assert {"owed_ns", "since_ns", "unclaimed", "round_before", "speaks", "spoke"} <= run["times"].keys()
    assert run["failures"].keys() == {"undecided", "told"}


@pytest.mark.parametrize("line", ["{}", "[]", "null", "1", '"x"', '{"phase": 1}'])
@pytest.mark.parametrize("kind", [ElasticEvent, Origin, ElasticSpan, TraceState, MetricState, Cause])
def test_other_data_is_a_value_error(kind: type[ElasticEvent], line: str) -> None:
    """A damaged spool, or one of a version that stored something else."""
    with pytest.raises(ValueError, match=rf"no {kind.__name__} of this version"):
        kind.from_json(line)
