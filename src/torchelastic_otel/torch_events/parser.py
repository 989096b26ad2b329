"""Torch's JSON to an :class:`ElasticEvent`: a pure function that never raises and never loses text.

Guarantees: every text gives an event. What torch does not define becomes ``torchelastic.event``, a rendezvous message
with unknown words ``torchelastic.rendezvous.message``; in both the body is the recorded text, unchanged but for its
bound. Torch's JSON is parsed as any version wrote it (1.13 to 2.15): a missing, ``null`` or ill-typed field leaves its
attribute out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from torchelastic_otel import semconv
from torchelastic_otel.model.event import AttributeValue, ElasticEvent, Severity
from torchelastic_otel.model.exit_codes import signal_name
from torchelastic_otel.model.text import MAX_BODY, bounded
from torchelastic_otel.torch_events import catalogue, error_files, messages, rendezvous_messages
from torchelastic_otel.torch_events.inferred_events import is_inferred, parse_inferred

_Attributes = dict[str, AttributeValue]

_STATUS: Final = "torchelastic.worker.status."
_MODULES: Final = {
    "dynamic_rendezvous.py": "torch.distributed.elastic.rendezvous.dynamic_rendezvous",
    "c10d_rendezvous_backend.py": "torch.distributed.elastic.rendezvous.c10d_rendezvous_backend",
}
_MAX_METADATA: Final = 32
_YEAR_3000_MS: Final = 32_503_680_000_000


def parse(
    text: str, destination: str, *, time_ns: int | None, observed_ns: int, monotonic_ns: int | None = None
) -> ElasticEvent:
    """One recorded text as an event.

    Args:
        text: What was recorded: ``Event.serialize()`` or ``RdzvEvent.serialize()`` of any torch, or anything.
        destination: The destination it was recorded to.
        time_ns: When it was recorded, wall clock nanoseconds; ``None`` if unknown. An event's own time takes
            precedence.
        observed_ns: Wall clock nanoseconds now.
        monotonic_ns: ``time.monotonic_ns()`` when it was recorded.
    """
    try:
        event: Any = json.loads(text)
    except (ValueError, RecursionError):
        event = None
    if is_inferred(event):
        return parse_inferred(event, destination, time_ns=time_ns, observed_ns=observed_ns, monotonic_ns=monotonic_ns)
    name, body, attributes, severity = _parse_torch(event, text)
    body = bounded(body, MAX_BODY)
    time_ns = _event_time_ns(event) or time_ns
    return ElasticEvent(name, destination, body, time_ns, observed_ns, monotonic_ns, severity, attributes)


def _event_time_ns(event: Any) -> int | None:
    """The time in an event: ``Event.timestamp`` is in milliseconds, and always 0 in torch's own events."""
    time_ms = event.get("timestamp") if isinstance(event, dict) else None
    if isinstance(time_ms, int) and not isinstance(time_ms, bool) and 0 < time_ms < _YEAR_3000_MS:
        return time_ms * 1_000_000
    return None


def _parse_torch(event: Any, text: str) -> tuple[str, str, _Attributes, Severity]:
    if isinstance(event, dict):
        if isinstance(event.get("node_state"), str) and isinstance(event.get("message"), str):
            return _rendezvous(event)
        if isinstance(event.get("source"), str) and isinstance(event.get("name"), str):
            known = _agent_or_worker(event)
            return known if known is not None else _unknown(event, text)
    return semconv.UNKNOWN_EVENT, text, {}, Severity.INFO


def _rendezvous(event: dict[str, Any]) -> tuple[str, str, _Attributes, Severity]:
    name, message, state = str(event.get("name", "")), event["message"], event["node_state"]
    run_id = event.get("run_id")
    reading = rendezvous_messages.parse_message(name, str(run_id), message, state == "FAILED")
    facts = reading.facts
    attributes: _Attributes = {semconv.NODE_STATE: bounded(state), semconv.RENDEZVOUS_INTENT: reading.intent}
    _put_text(attributes, semconv.RUN_ID, run_id)
    _put_text(attributes, semconv.NODE_ADDRESS, event.get("hostname"))
    _put_text(attributes, semconv.NODE_ID, facts.get("node") or _node_id(event))
    _put_int(attributes, semconv.RENDEZVOUS_ROUND, facts.get("round"))
    _put_int(attributes, semconv.GROUP_RANK, facts.get("rank", event.get("rank")))
    _put_int(attributes, semconv.GROUP_WORLD_SIZE, facts.get("world_size"))
    if "removed" in facts:
        attributes[semconv.NODES_REMOVED_IDS] = tuple(bounded(n.strip("'")) for n in facts["removed"].split(", "))
    file, _, function = name.rpartition(":")
    if function:
        module = _MODULES.get(file)
        stem = module or file.removesuffix(".py")
        attributes[semconv.CODE_FUNCTION_NAME] = bounded(f"{stem}.{function}" if stem else function)
        if file:
            attributes[semconv.CODE_FILE_PATH] = bounded(module.replace(".", "/") + ".py" if module else file)
    if state == "FAILED":
        # only these two name an error: elsewhere FAILED is a node's state, and the text is no exception
        if reading.event == semconv.RENDEZVOUS_FAILED:
            attributes.update(error_files.from_text(message))
        elif facts.get("error"):
            attributes.update(error_files.from_text(facts["error"]))
        attributes |= error_files.from_traceback(str(event.get("error_trace") or "")) | attributes
    body = message
    severity = catalogue.SEVERITIES.get(reading.event, Severity.INFO)
    if reading.event == semconv.RENDEZVOUS_MESSAGE and state == "FAILED":
        severity = Severity.ERROR
    return reading.event, body, attributes, severity


def _node_id(event: dict[str, Any]) -> str | None:
    host, pid, local_id = event.get("hostname"), event.get("pid"), event.get("local_id")
    return None if local_id is None else f"{host}_{pid}_{local_id}"


def _agent_or_worker(event: dict[str, Any]) -> tuple[str, str, _Attributes, Severity] | None:
    metadata = event.get("metadata")
    if not isinstance(metadata, dict):
        return None
    torch_name, source = event["name"], event["source"]
    name = catalogue.WATCHDOG.get(torch_name) or (
        catalogue.STATUSES.get((source, torch_name.removeprefix(_STATUS))) if torch_name.startswith(_STATUS) else None
    )
    if name is None:
        return None
    inner = _inner(metadata.get("metadata"))
    attributes: _Attributes = {}
    _put_text(attributes, semconv.RUN_ID, metadata.get("run_id"))
    _put_text(attributes, semconv.NODE_ADDRESS, metadata.get("hostname"))
    _put_text(attributes, semconv.ROLE_NAME, metadata.get("role"))
    _put_text(attributes, semconv.RENDEZVOUS_BACKEND, metadata.get("rdzv_backend"))
    _put_text(attributes, semconv.ENTRY_POINT, inner.get("entry_point"))
    _put_int(attributes, semconv.RESTART_COUNT, metadata.get("agent_restarts"))
    _put_int(attributes, semconv.GROUP_RANK, metadata.get("group_rank"))
    _put_int(attributes, semconv.GROUP_WORLD_SIZE, inner.get("group_world_size"))
    _put_int(attributes, semconv.AGENT_RUN_TIME, metadata.get("total_run_time"))
    duration = metadata.get("duration_ms")
    if isinstance(duration, (int, float)) and abs(duration) < 1 << 63:  # a raw event of any program may be read here
        attributes[semconv.AGENT_STEP_DURATION] = duration / 1_000
    raw_error = metadata.get("raw_error")
    if name.startswith("torchelastic.worker."):
        _put_worker(attributes, metadata, inner)
        if isinstance(raw_error, str):
            attributes.update(error_files.from_error_file(raw_error))
        if name == semconv.WORKER_FAILED and semconv.ERROR_TYPE not in attributes:
            attributes[semconv.ERROR_TYPE] = attributes.get(semconv.WORKER_SIGNAL, "exit")
    elif name.startswith("torchelastic.watchdog."):
        _put_int(attributes, semconv.WORKER_PID, inner.get("worker_pid"))
        _put_text(attributes, semconv.WATCHDOG_REASON, inner.get("scope_id"))
    elif isinstance(raw_error, str):
        attributes.update(error_files.from_traceback(raw_error))
    return name, messages.torch_event(name, attributes), attributes, catalogue.SEVERITIES.get(name, Severity.INFO)


def _put_worker(attributes: _Attributes, metadata: Mapping[str, Any], inner: Mapping[str, Any]) -> None:
    _put_int(attributes, semconv.WORKER_RANK, metadata.get("global_rank"))
    _put_int(attributes, semconv.WORKER_LOCAL_RANK, _single(inner.get("local_rank")))
    _put_int(attributes, semconv.ROLE_RANK, _single(inner.get("role_rank")))
    _put_int(attributes, semconv.ROLE_WORLD_SIZE, _single(inner.get("role_world_size")))
    _put_int(attributes, semconv.WORKER_PID, metadata.get("worker_id"))
    _put_int(attributes, semconv.WORKER_PID, _single(inner.get("worker_pid")))
    _put_int(attributes, semconv.PROCESS_EXIT_CODE, _single(inner.get("exit_code")))
    exit_code = attributes.get(semconv.PROCESS_EXIT_CODE)
    if isinstance(exit_code, int):
        _put_text(attributes, semconv.WORKER_SIGNAL, signal_name(exit_code))


def _unknown(event: dict[str, Any], text: str) -> tuple[str, str, _Attributes, Severity]:
    attributes: _Attributes = {
        semconv.EVENT_NAME: bounded(event["name"]),
        semconv.EVENT_SOURCE: bounded(event["source"]),
    }
    metadata = event.get("metadata")
    if isinstance(metadata, dict):
        _put_text(attributes, semconv.RUN_ID, metadata.get("run_id"))
        for key, value in list(metadata.items())[:_MAX_METADATA]:
            if isinstance(value, str):
                attributes[f"{semconv.EVENT_METADATA}.{bounded(key, 128)}"] = bounded(value)
            elif isinstance(value, (bool, float)) or (isinstance(value, int) and _fits(value)):
                attributes[f"{semconv.EVENT_METADATA}.{bounded(key, 128)}"] = value
    return semconv.UNKNOWN_EVENT, text, attributes, Severity.INFO


def _inner(metadata: object) -> Mapping[str, Any]:
    """Torch nests a JSON string in the metadata."""
    if isinstance(metadata, str):
        try:
            metadata = json.loads(metadata)
        except (ValueError, RecursionError):
            return {}
    return metadata if isinstance(metadata, dict) else {}


def _single(value: object) -> object:
    """Torch writes ``(x,)`` where it means ``x``."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _put_text(attributes: _Attributes, name: str, value: object) -> None:
    if isinstance(value, str) and value:
        attributes[name] = bounded(value)


def _put_int(attributes: _Attributes, name: str, value: object) -> None:
    if isinstance(value, str):
        value = int(value) if value.isascii() and value.isdigit() and len(value) < 19 else None
    if isinstance(value, int) and not isinstance(value, bool) and _fits(value):
        attributes[name] = value


def _fits(value: int) -> bool:
    """OTLP's integers have 64 bits."""
    return -(1 << 63) <= value < (1 << 63)
