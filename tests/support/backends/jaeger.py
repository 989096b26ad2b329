"""Jaeger all-in-one, on Badger, so that traces outlive its process."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.backends import http
from tests.support.backends.programs import find_programs
from tests.support.backends.server import Server, loopback

US = 1_000
"""Nanoseconds in Jaeger's unit of time."""
LATELY_US = 6 * 3600 * 1_000_000


@dataclass(frozen=True, slots=True)
class Span:
    """A span as Jaeger tells it; times to the microsecond. ``parent_id`` is empty at a root.

    ``tags`` are the span's attributes with ``span.kind``, ``error`` and ``otel.status_*``; ``resource`` those of its
    resource, without ``service.name``, which is ``service``; ``links`` are (trace id, span id) pairs; ``events`` are
    (time in nanoseconds, attributes) with the event's name under ``event``.
    """

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    start_ns: int
    duration_ns: int
    service: str
    tags: dict[str, Any]
    resource: dict[str, Any]
    links: tuple[tuple[str, str], ...]
    events: tuple[tuple[int, dict[str, Any]], ...]


class Jaeger(Server):
    """One Jaeger.

    Attributes:
        url: Its query API, and what Grafana calls it by.
        otlp_grpc: For the Collector's ``otlp_grpc`` exporter, ``127.0.0.1:port`` without TLS.
        otlp_http: By HTTP.
    """

    name = "jaeger"

    def __init__(self, folder: Path, *, env: Mapping[str, str] | None = None, program: Path | None = None) -> None:
        super().__init__(program or find_programs().jaeger, folder, env)
        self.address, self.otlp_grpc, otlp_http, self.admin = loopback(), loopback(), loopback(), loopback()
        self._others = {
            flag: loopback() for flag in ("query.grpc-server", "collector.grpc-server", "collector.http-server")
        }
        self.url = f"http://{self.address}"
        self.otlp_http = f"http://{otlp_http}"

    def command(self) -> list[str]:
        """Jaeger and its flags."""
        return [
            str(self.program),
            "--collector.otlp.enabled=true",
            f"--collector.otlp.grpc.host-port={self.otlp_grpc}",
            f"--collector.otlp.http.host-port={self.otlp_http.removeprefix('http://')}",
            f"--query.http-server.host-port={self.address}",
            f"--admin.http.host-port={self.admin}",
            *(f"--{flag}.host-port={address}" for flag, address in self._others.items()),
            "--badger.ephemeral=false",
            "--badger.consistency=true",
            f"--badger.directory-key={self.data / 'keys'}",
            f"--badger.directory-value={self.data / 'values'}",
        ]

    def environment(self) -> dict[str, str]:
        """With the kind of storage, which is no flag, and without spans of its own among the tests'."""
        return {**super().environment(), "SPAN_STORAGE_TYPE": "badger", "OTEL_TRACES_SAMPLER": "always_off", **self.env}

    def is_ready(self) -> bool:
        """Whether it takes and answers."""
        return http.answers(f"http://{self.admin}/") and http.answers(f"{self.url}/api/services")

    def trace(self, trace_id: str) -> list[Span]:
        """The spans of a trace, the earliest first; none where it is not (yet) known."""
        try:
            found = http.get_json(f"{self.url}/api/traces/{trace_id}")
        except http.Refused as refused:
            if refused.status == 404:
                return []
            raise
        return [span for trace in found["data"] or [] for span in _spans(trace)]

    def search(
        self, service: str, tags: Mapping[str, str] | None = None, *, operation: str | None = None,
        start_ns: int | None = None, end_ns: int | None = None, limit: int = 1500,
    ) -> list[list[Span]]:  # fmt: skip
        """The traces, each whole, in which a span of the service has these tags; of six hours where not said."""
        now_us = time.time_ns() // US
        asked = {
            "service": service,
            "operation": operation,
            "tags": json.dumps(dict(tags)) if tags else None,
            "start": now_us - LATELY_US if start_ns is None else start_ns // US,
            "end": now_us + 60_000_000 if end_ns is None else end_ns // US,
            "limit": limit,
        }
        return [_spans(trace) for trace in http.get_json(f"{self.url}/api/traces", asked)["data"] or []]

    def services(self) -> list[str]:
        """All it has heard of."""
        return list(http.get_json(f"{self.url}/api/services")["data"] or [])


def _values(pairs: list[dict[str, Any]]) -> dict[str, Any]:
    return {pair["key"]: pair["value"] for pair in pairs or []}


def _spans(trace: Mapping[str, Any]) -> list[Span]:
    """Jaeger's own JSON, as spans."""
    spans = []
    for span in trace["spans"]:
        process = trace["processes"][span["processID"]]
        # its parent is the reference of that kind within its trace; every other one was a link
        refs = [(ref["refType"], ref["traceID"], ref["spanID"]) for ref in span.get("references") or []]
        parents = [ref for ref in refs if ref[0] == "CHILD_OF" and ref[1] == span["traceID"]]
        spans.append(
            Span(
                trace_id=span["traceID"],
                span_id=span["spanID"],
                parent_id=parents[0][2] if parents else "",
                name=span["operationName"],
                start_ns=span["startTime"] * US,
                duration_ns=span["duration"] * US,
                service=process["serviceName"],
                tags=_values(span["tags"]),
                resource=_values(process["tags"]),
                links=tuple((ref[1], ref[2]) for ref in refs if ref not in parents[:1]),
                events=tuple((log["timestamp"] * US, _values(log["fields"])) for log in span.get("logs") or []),
            )
        )
    return sorted(spans, key=lambda span: span.start_ns)
