"""Which traces are kept: ``OTEL_TRACES_SAMPLER`` as the specification means it, by the trace's id alone.

What always holds: every process that has the same setting decides alike about a trace, so that it is kept whole or
not at all; a sampler that cannot be honoured here is named, and the default used. Our traces have no parent, so that
a ``parentbased_*`` sampler is its root.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

SAMPLERS: Final = (
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
)
_LOW_64: Final = (1 << 64) - 1

Sampler = Callable[[str], bool]
"""Whether a trace is kept, by its id in hex."""


def sample_all(trace_id: str) -> bool:
    """``always_on``."""
    return True


def sample_none(trace_id: str) -> bool:
    """``always_off``."""
    return False


def make_sampler(environ: Mapping[str, str], warn: Callable[[str], object]) -> Sampler:
    """The sampler of an environment.

    Args:
        environ: The environment.
        warn: Takes one line for each setting that is not allowed and was replaced.
    """
    name = environ.get("OTEL_TRACES_SAMPLER", "").strip().lower()
    if name and name not in SAMPLERS:
        warn(f"OTEL_TRACES_SAMPLER={name!r} is not allowed here: give one of {', '.join(SAMPLERS)}; always_on is used")
        return sample_all
    if name.endswith("always_off"):
        return sample_none
    if not name.endswith("traceidratio"):
        return sample_all
    text = environ.get("OTEL_TRACES_SAMPLER_ARG", "").strip()
    try:
        ratio = float(text or "1")
    except ValueError:
        ratio = -1.0
    if not 0.0 <= ratio <= 1.0:
        warn(f"OTEL_TRACES_SAMPLER_ARG={text!r} is not allowed: give a ratio from 0 to 1; 1 is used")
        ratio = 1.0
    # as in OpenTelemetry Python: the lower 64 bits of an id against a bound
    bound = round(ratio * (_LOW_64 + 1))
    return lambda trace_id: int(trace_id, 16) & _LOW_64 < bound
