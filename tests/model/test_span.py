"""Finished spans on their way through the spool."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchelastic_otel.model.span import ElasticSpan, SpanEvent, SpanLink

scalars = st.one_of(st.text(), st.booleans(), st.integers(), st.floats(allow_nan=False))
attributes = st.dictionaries(st.text(), st.one_of(scalars, st.lists(st.text(), max_size=3).map(tuple)), max_size=4)
times = st.integers(0, 1 << 63)
spans = st.builds(
    ElasticSpan,
    name=st.text(),
    trace_id=st.text("0123456789abcdef", min_size=32, max_size=32),
    span_id=st.text("0123456789abcdef", min_size=16, max_size=16),
    parent_id=st.one_of(st.none(), st.text("0123456789abcdef", min_size=16, max_size=16)),
    start_ns=times,
    end_ns=times,
    attributes=attributes,
    events=st.lists(st.builds(SpanEvent, st.text(), times, attributes), max_size=3).map(tuple),
    links=st.lists(st.builds(SpanLink, st.text(), st.text(), attributes), max_size=3).map(tuple),
    error=st.one_of(st.none(), st.text()),
)


@given(spans)
def test_a_span_survives_the_spool_unchanged(span: ElasticSpan) -> None:
    """What was kept is what is exported, after a kill and by another process too (promise 3)."""
    line = span.to_json()
    assert line.isascii()
    assert ElasticSpan.from_json(line) == span


@pytest.mark.parametrize("line", ["", "null", "[]", "{}", '{"span": []}', '{"span": 5, "attributes": {}}'])
def test_what_is_no_span_is_said_to_be_none(line: str) -> None:
    """A row that cannot be read must cost that row."""
    with pytest.raises(ValueError):
        ElasticSpan.from_json(line)
