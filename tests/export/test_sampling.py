"""Which traces are kept, decided by their ids alone."""

from __future__ import annotations

import random

import pytest
from opentelemetry.sdk.trace.sampling import TraceIdRatioBased

from torchelastic_otel.export.config import make_sampler

TRACES = [f"{random.Random(seed).getrandbits(128):032x}" for seed in range(2_000)]


def kept(**variables: str) -> list[str]:
    """The traces that are kept; nothing is complained of."""
    sampler = make_sampler({f"OTEL_TRACES_{name}": value for name, value in variables.items()}, pytest.fail)
    return [trace for trace in TRACES if sampler(trace)]


@pytest.mark.parametrize("name", ["", "always_on", "parentbased_always_on", "ALWAYS_ON"])
def test_everything_is_kept_by_default_and_when_asked(name: str) -> None:
    """A failed run's trace is what somebody looks for."""
    assert kept(SAMPLER=name) == TRACES


@pytest.mark.parametrize("name", ["always_off", "parentbased_always_off"])
def test_nothing_is_kept_where_nothing_is_wanted(name: str) -> None:
    """Off is off."""
    assert kept(SAMPLER=name) == []


@pytest.mark.parametrize("name", ["traceidratio", "parentbased_traceidratio"])
@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.5, 1.0])
def test_a_ratio_keeps_the_traces_that_opentelemetry_would(name: str, ratio: float) -> None:
    """Every node decides alike, and like the workers' own SDK: a trace is kept whole or not at all."""
    theirs = TraceIdRatioBased(ratio)
    expected = [trace for trace in TRACES if theirs.should_sample(None, int(trace, 16), "s").decision.is_sampled()]
    assert kept(SAMPLER=name, SAMPLER_ARG=str(ratio)) == expected


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"OTEL_TRACES_SAMPLER": "jaeger_remote"}, "OTEL_TRACES_SAMPLER='jaeger_remote'"),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "2"}, "OTEL_TRACES_SAMPLER_ARG='2'"),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "some"}, "OTEL_TRACES_SAMPLER_ARG='some'"),
    ],
)
def test_what_cannot_be_honoured_is_named_and_everything_is_kept(variables: dict[str, str], named: str) -> None:
    """Losing a trace to a typing error would be found out when it is needed."""
    said: list[str] = []
    sampler = make_sampler(variables, said.append)
    assert all(sampler(trace) for trace in TRACES)
    assert [named in text for text in said] == [True]
