"""A worker's resource, for its own telemetry: ``OTEL_EXPERIMENTAL_RESOURCE_DETECTORS=torchelastic``.

Guarantees: only the environment that torchrun sets for its workers is read (torch 2.2 to 2.15), torch is not imported;
a process that torchrun has not started gets an empty resource, also if a scheduler set ``RANK``; it never raises.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from opentelemetry.sdk.resources import Resource, ResourceDetector

from torchelastic_otel import semconv

_NUMBERS: Final = {
    "RANK": semconv.WORKER_RANK,
    "LOCAL_RANK": semconv.WORKER_LOCAL_RANK,
    "WORLD_SIZE": semconv.WORLD_SIZE,
    "LOCAL_WORLD_SIZE": semconv.LOCAL_WORLD_SIZE,
    "GROUP_RANK": semconv.GROUP_RANK,
    "GROUP_WORLD_SIZE": semconv.GROUP_WORLD_SIZE,
    "ROLE_RANK": semconv.ROLE_RANK,
    "ROLE_WORLD_SIZE": semconv.ROLE_WORLD_SIZE,
    "TORCHELASTIC_RESTART_COUNT": semconv.RESTART_COUNT,
    "TORCHELASTIC_MAX_RESTARTS": semconv.RESTARTS_MAX,
}
_TEXTS: Final = {"TORCHELASTIC_RUN_ID": semconv.RUN_ID, "ROLE_NAME": semconv.ROLE_NAME}


def attributes_of(environ: Mapping[str, str]) -> dict[str, str | int]:
    """The attributes of an environment; none outside torchrun's workers."""
    if not environ.get("TORCHELASTIC_RUN_ID") or "RANK" not in environ:
        return {}
    # one lone surrogate in a resource would make every export of the worker fail
    found: dict[str, str | int] = {
        name: environ[variable].encode("utf-8", "backslashreplace").decode()
        for variable, name in _TEXTS.items()
        if environ.get(variable)
    }
    for variable, name in _NUMBERS.items():
        number = environ.get(variable, "").strip()
        if number.isascii() and number.isdecimal() and len(number) < 19:
            found[name] = int(number)
    return found


class TorchelasticResourceDetector(ResourceDetector):
    """The resource detector ``torchelastic``."""

    def detect(self) -> Resource:
        """The worker's resource."""
        return Resource(attributes_of(os.environ), semconv.SCHEMA_URL)
