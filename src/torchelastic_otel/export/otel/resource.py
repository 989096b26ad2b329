"""The OpenTelemetry resource of an origin, rebuilt in any process that exports its events.

Guarantees:

- It depends on the origin only: the environment of the exporting process is never read, so an adopted spool keeps the
  names of the job that wrote it.
- Every value is valid UTF-8: one lone surrogate in an environment variable would make every export fail.
- ``OTEL_RESOURCE_ATTRIBUTES`` has precedence over everything that is detected.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import unquote

from opentelemetry.sdk.environment_variables import (
    OTEL_EXPERIMENTAL_RESOURCE_DETECTORS,
    OTEL_RESOURCE_ATTRIBUTES,
    OTEL_SERVICE_NAME,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.version import __version__ as sdk_version
from opentelemetry.util._importlib_metadata import entry_points

from torchelastic_otel import semconv
from torchelastic_otel.model.event import AttributeValue, Origin
from torchelastic_otel.model.job_environment import JOB_ATTRIBUTES, POD_VARIABLE

logger = logging.getLogger("torchelastic_otel")

DEFAULT_SERVICE_NAME: Final = "torchrun"
MAX_VALUE_LENGTH: Final = 4096
"""Characters of one value: an environment variable may have 128 KiB, and a batch at most 1 MiB."""

_MAX_CACHED: Final = 256
_cache: OrderedDict[str, Resource] = OrderedDict()
_cache_lock = threading.Lock()


def resource_of(origin: Origin) -> Resource:
    """The resource of an origin; the same object for the same origin id.

    ``service.name`` is ``torchrun`` and ``service.instance.id`` the origin's id by default: one writer for each series.
    """
    with _cache_lock:
        found = _cache.get(origin.id)
        if found is None:
            found = _cache[origin.id] = Resource(_attributes(origin), semconv.SCHEMA_URL)
            if len(_cache) > _MAX_CACHED:
                _cache.popitem(last=False)
        return found


def _attributes(origin: Origin) -> dict[str, AttributeValue]:
    environment = origin.environment
    attributes: dict[str, AttributeValue] = {semconv.SERVICE_NAME: DEFAULT_SERVICE_NAME}
    for key, name in JOB_ATTRIBUTES.items():
        trusted = not name.startswith("k8s.") or key.startswith("K8S_") or POD_VARIABLE in environment
        if environment.get(key) and trusted:
            attributes[name] = environment[key]
    attributes.update(origin.detected)
    attributes[semconv.HOST_NAME] = origin.host_name
    if origin.pid:  # unknown in a replay
        attributes[semconv.PROCESS_PID] = origin.pid
    attributes[semconv.SERVICE_INSTANCE_ID] = origin.id
    attributes.update(parse_resource_attributes(environment.get(OTEL_RESOURCE_ATTRIBUTES, "")))
    if service_name := environment.get(OTEL_SERVICE_NAME, "").strip():
        attributes[semconv.SERVICE_NAME] = service_name
    attributes["telemetry.sdk.language"] = "python"
    attributes["telemetry.sdk.name"] = "opentelemetry"
    attributes["telemetry.sdk.version"] = sdk_version
    return {_clean(key): _clean(value) for key, value in attributes.items()}


def parse_resource_attributes(text: str) -> dict[str, AttributeValue]:
    """The pairs of ``OTEL_RESOURCE_ATTRIBUTES``: ``key=value,...``, keys and values percent-encoded.

    Specification, "Specifying resource information via an environment variable"; an item that is not a pair is left
    out with a warning, as in OpenTelemetry Python, and an empty value without one.
    """
    pairs: dict[str, AttributeValue] = {}
    for item in text.split(","):
        key, is_pair, value = item.partition("=")
        key, value = unquote(key.strip()), unquote(value.strip())
        if key and value:
            pairs[key] = value
        elif item.strip() and not (key and is_pair):
            logger.warning("%s: %r is not a pair; allowed: key=value,key=value", OTEL_RESOURCE_ATTRIBUTES, item[:80])
    return pairs


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return value[:MAX_VALUE_LENGTH].encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, (tuple, list)):
        return tuple(_clean(item) for item in value)
    return value


def detect(
    environ: Mapping[str, str],
    *,
    timeout_s: float = 5.0,
    warn: Callable[[str], None] = logger.warning,
) -> dict[str, AttributeValue]:
    """The attributes of the detectors of ``OTEL_EXPERIMENTAL_RESOURCE_DETECTORS``, for ``Origin.detected``.

    A later detector has precedence over an earlier one, as in OpenTelemetry Python. ``otel`` is not run: its input is
    in ``Origin.environment``. A detector that is unknown, raises or exceeds ``timeout_s`` (seconds, for all of them)
    is left out with a warning.
    """
    names = dict.fromkeys(name.strip() for name in environ.get(OTEL_EXPERIMENTAL_RESOURCE_DETECTORS, "").split(","))
    names = {name: None for name in names if name not in ("", "otel")}
    if not names:
        return {}
    found: dict[str, dict[str, AttributeValue] | str] = dict.fromkeys(names, f"took longer than {timeout_s:g} s")

    def run() -> None:
        for name in names:
            try:
                found[name] = _run_detector(name)
            except Exception as error:  # noqa: BLE001 - a detector may raise anything
                found[name] = f"{type(error).__name__}: {error}"

    # a detector that calls a cloud's metadata service may hang; the exit does not wait for a daemon thread
    thread = threading.Thread(target=run, name="torchelastic-otel-detect", daemon=True)
    thread.start()
    thread.join(timeout_s)
    detected: dict[str, AttributeValue] = {}
    for name in names:
        answer = found[name]
        if isinstance(answer, str):
            warn(f"resource detector {name!r} of {OTEL_EXPERIMENTAL_RESOURCE_DETECTORS} is left out: {answer}")
        else:
            detected.update(answer)
    return detected


def _run_detector(name: str) -> dict[str, AttributeValue]:
    points = list(entry_points(group="opentelemetry_resource_detector", name=name))
    if not points:
        raise LookupError("no such detector is installed")
    detector = points[0].load()()
    attributes: dict[str, AttributeValue] = {}
    for key, value in detector.detect().attributes.items():
        if isinstance(value, (tuple, list)):
            attributes[key] = tuple(str(item) for item in value)
        elif isinstance(value, (str, bool, int, float)):
            attributes[key] = value
    return {_clean(key): _clean(value) for key, value in attributes.items()}
