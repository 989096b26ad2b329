"""Every setting of this package, declared and documented once; OpenTelemetry's own are read where they act.

Guarantees: reading settings never raises and never stops a job. A bad value is reported, with what is allowed, and the
default is used.
"""

from __future__ import annotations

import difflib
import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from torchelastic_otel.environment_variables import PREFIX, SET_FOR_WORKERS
from torchelastic_otel.units import NS_PER_S

MIN_SPOOL_BYTES: Final = 1 << 20


class Mode(enum.Enum):
    """Whether the bridge is active."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class Setting:
    """One environment variable.

    Attributes:
        variable: Its name.
        field: The field of :class:`Settings` it fills.
        default: Its default, as in an environment.
        allowed: The allowed values, for the error message and the documentation.
        meaning: One sentence for the documentation.
        parse: Text to value; raises ``ValueError`` for what is not allowed.
    """

    variable: str
    field: str
    default: str
    allowed: str
    meaning: str
    parse: Callable[[str], Any]


def _names(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise ValueError("no name")
    return names


def _heartbeats(text: str) -> tuple[str, ...]:
    names = _names(text.lower())
    if not set(names) <= {"metrics", "logs"}:
        raise ValueError("unknown word")
    return names


def _spool_bytes(text: str) -> int:
    number = int(text)
    if number < MIN_SPOOL_BYTES:
        raise ValueError("too small")
    return number


def _seconds(text: str) -> int:
    seconds = float(text)
    if not 0 <= seconds <= 600:
        raise ValueError("out of range")
    return round(seconds * 1_000) * 1_000_000


def _switch(text: str) -> bool:
    return {"on": True, "off": False}[text.strip().lower()]


def _worker_context(text: str) -> str:
    return {"off": "off", "link": "link"}[text.strip().lower()]


SETTINGS: Final = (
    Setting(
        PREFIX,
        "mode",
        "auto",
        "auto, on, off",
        "Whether the bridge is active; `auto`: if an OpenTelemetry destination is configured.",
        lambda text: Mode(text.strip().lower()),
    ),
    Setting(
        PREFIX + "_DESTINATIONS",
        "destinations",
        "the exporters of OTEL_LOGS_EXPORTER, OTEL_TRACES_EXPORTER and OTEL_METRICS_EXPORTER, else otlp",
        "names of destinations or of installed OpenTelemetry exporters, separated by commas",
        "The destinations of torch's events, and of the spans and metrics that are derived from them.",
        _names,
    ),
    Setting(
        PREFIX + "_SPOOL_DIR",
        "spool_dir",
        "the temporary directory",
        "a directory on a disk of this node (not NFS)",
        "Where events are stored until they are delivered, in one folder for each user.",
        str,
    ),
    Setting(
        PREFIX + "_SPOOL_MAX_BYTES",
        "spool_max_bytes",
        "67108864",
        f"a whole number of bytes, at least {MIN_SPOOL_BYTES}",
        "The maximum size of an agent's spool; beyond it the oldest delivered events are removed, then the oldest.",
        _spool_bytes,
    ),
    Setting(
        PREFIX + "_FLUSH_TIMEOUT",
        "flush_timeout_ns",
        "2",
        "seconds, from 0 to 600",
        "How long the exit of an agent may be delayed to deliver what is left.",
        _seconds,
    ),
    Setting(
        PREFIX + "_HEARTBEATS",
        "heartbeats",
        "metrics",
        "metrics, logs, or both, separated by a comma",
        "How heartbeats and state syncs are exported, which every node sends every few seconds.",
        _heartbeats,
    ),
    Setting(
        PREFIX + "_WORKER_CONTEXT",
        "worker_context",
        "off",
        "off, link",
        "Whether workers get the context of their node's span, for `torchelastic_otel.attach_context()`.",
        _worker_context,
    ),
    Setting(
        PREFIX + "_WORKER_EVIDENCE",
        "worker_evidence",
        "on",
        "on, off",
        "Whether workers note their unhandled exceptions, and their stacks when they are stopped or crash.",
        _switch,
    ),
    Setting(
        PREFIX + "_FILE_DIR",
        "file_dir",
        "`otlp/` in the spool's folder",
        "a directory",
        "Where the destination `file` writes its OTLP JSON lines.",
        str,
    ),
)


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings in effect.

    Attributes:
        mode: Whether the bridge is active.
        destinations: Names of the destinations of torch's events; empty for OpenTelemetry's own variables.
        spool_dir: Directory in which the user's spool folder is made; ``None`` for the temporary one.
        spool_max_bytes: Upper bound of one agent's spool on disk, bytes.
        flush_timeout_ns: Upper bound of the delay of an exit, nanoseconds.
        file_dir: Directory for the ``file`` destination; ``None`` for the spool's folder.
        heartbeats: How heartbeats are exported: ``metrics``, ``logs`` or both.
        worker_context: Whether workers get the context of their node's span: ``off``, ``link``.
        worker_evidence: Whether workers note their exceptions and stacks.
    """

    mode: Mode = Mode.AUTO
    destinations: tuple[str, ...] = ()
    spool_dir: str | None = None
    spool_max_bytes: int = 64 << 20
    flush_timeout_ns: int = 2 * NS_PER_S
    file_dir: str | None = None
    heartbeats: tuple[str, ...] = ("metrics",)
    worker_context: str = "off"
    worker_evidence: bool = True


def from_environment(environ: Mapping[str, str]) -> tuple[Settings, list[str]]:
    """The settings of an environment, and a sentence for each value in it that cannot be used.

    An empty value counts as not set, as OpenTelemetry has it (specification, "Environment Variable
    Specification", general rules).
    """
    values: dict[str, Any] = {}
    complaints: list[str] = []
    for setting in SETTINGS:
        text = environ.get(setting.variable, "").strip()
        if not text:
            continue
        try:
            values[setting.field] = setting.parse(text)
        except (ValueError, KeyError):
            complaints.append(
                f"{setting.variable}={text!r} is not allowed; allowed: {setting.allowed};"
                f" using the default ({setting.default})"
            )
    known = [setting.variable for setting in SETTINGS] + list(SET_FOR_WORKERS)
    for variable in environ:
        if variable.startswith(PREFIX) and variable not in known:
            near = difflib.get_close_matches(variable, known, 1)
            hint = f"; did you mean {near[0]}?" if near else f"; known: {', '.join(known)}"
            complaints.append(f"{variable} is not a setting of torchelastic-otel{hint}")
    assert {setting.field for setting in SETTINGS} == {field.name for field in fields(Settings)}
    return Settings(**values), complaints
