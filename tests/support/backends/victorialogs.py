"""VictoriaLogs, fed by OTLP."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.support.backends import http
from tests.support.backends.programs import find_programs
from tests.support.backends.server import Server, eventually, loopback

S = 1_000_000_000
LATELY_S = 6 * 3600
"""How far back a query looks by default."""
STREAM_FIELDS = {"VL-Stream-Fields": "service.name,service.instance.id"}
"""What quickstart.yaml sends with each request; without it every attribute of the resource makes streams."""
_PENDING = re.compile(r"^vl_pending_rows\{[^}]*\} (\d+)$", re.MULTILINE)
_PARTS = re.compile(r"^vl_(?:storage|indexdb)_parts(?:\{[^}]*\})? (\d+)$", re.MULTILINE)
_DROPPED = re.compile(r'^vl_rows_dropped_total\{reason="(\w+)"\} (\d+)$', re.MULTILINE)
_TIME = re.compile(r"(?P<seconds>[^.Z]+)(?:\.(?P<fraction>\d+))?Z")

Line = tuple[int, str, dict[str, str]]
"""Time in nanoseconds; body; all fields of the record and its resource, by their OpenTelemetry names."""


class VictoriaLogs(Server):
    """One VictoriaLogs.

    Attributes:
        url: Its API, its web page (``/select/vmui``), and the URL of a Grafana data source.
        otlp: For the Collector's ``otlp_http`` exporter, which adds ``/v1/logs``. Protobuf only.
    """

    name = "victorialogs"

    def __init__(self, folder: Path, *, env: Mapping[str, str] | None = None, program: Path | None = None) -> None:
        super().__init__(program or find_programs().victorialogs, folder, env)
        self.address = loopback()
        self.url = f"http://{self.address}"
        self.otlp = f"{self.url}/insert/opentelemetry"

    def command(self) -> list[str]:
        """VictoriaLogs and its flags: those of ``scripts/quickstart``."""
        return [
            *(str(self.program), f"-httpListenAddr={self.address}", f"-storageDataPath={self.data}"),
            *("-retentionPeriod=30d", "-inmemoryDataFlushInterval=1s"),
        ]

    @staticmethod
    def field(attribute: str) -> str:
        """The name of an attribute, in answers."""
        return attribute

    @staticmethod
    def selector(conditions: Mapping[str, object], service: str = "torchrun") -> str:
        """The query for the records of a service with these attributes."""
        return f'{{service.name="{service}"}}' + "".join(f' "{name}":="{value}"' for name, value in conditions.items())

    def is_ready(self) -> bool:
        """Whether it accepts data and answers queries."""
        return http.answers(f"{self.url}/health")

    def query(
        self, logsql: str, *, start_ns: int | None = None, end_ns: int | None = None, limit: int = 5000
    ) -> list[Line]:
        """Log records, the oldest first; of the last six hours by default."""
        text = http.get(
            f"{self.url}/select/logsql/query", {"query": logsql, "limit": limit, **_range(start_ns, end_ns)}
        )
        return sorted(map(_line, text.splitlines()), key=lambda line: line[0])

    def rows(self, logsql: str, *, start_ns: int | None = None, end_ns: int | None = None) -> list[dict[str, str]]:
        """What a query with pipes returns, in its order."""
        text = http.get(f"{self.url}/select/logsql/query", {"query": logsql, **_range(start_ns, end_ns)})
        return [dict(json.loads(line)) for line in text.splitlines()]

    def stats(
        self, logsql: str, *, start_ns: int | None = None, end_ns: int | None = None
    ) -> list[tuple[dict[str, str], float]]:
        """Labels and number of each series of a query that ends in a ``stats`` pipe."""
        asked = {"query": logsql, **_range(start_ns, end_ns)}
        found = http.get_json(f"{self.url}/select/logsql/stats_query", asked)["data"]["result"]
        return [
            ({key: value for key, value in one["metric"].items() if key != "__name__"}, float(one["value"][1]))
            for one in found
        ]

    def count(self, conditions: Mapping[str, object], service: str = "torchrun") -> int:
        """The number of a service's records with these attributes, of the last hour."""
        query = f"{self.selector(conditions, service)} _time:1h | stats count() records"
        return int(sum(number for _, number in self.stats(query)))

    def stream_fields(self) -> dict[str, list[str]]:
        """The fields that make streams, each with its values."""
        asked = {"query": "*", **_range(None, None)}
        names = http.get_json(f"{self.url}/select/logsql/stream_field_names", asked)["values"]
        return {
            name: [
                each["value"]
                for each in http.get_json(f"{self.url}/select/logsql/stream_field_values", {**asked, "field": name})[
                    "values"
                ]
            ]
            for name in (each["value"] for each in names)
        }

    def dropped(self) -> dict[str, int]:
        """How many records it discarded since its start after it answered 200, by reason."""
        return {reason: int(number) for reason, number in _DROPPED.findall(http.get(f"{self.url}/metrics"))}

    def save(self) -> None:
        """Wait until all records and the index of their streams are on disk.

        It answers 200 up to a flush interval earlier. Records and index are flushed apart, and after a kill a record
        without its stream is found by no query. So every part that it counts must be listed on disk.
        """
        eventually(self._is_saved)

    def _is_saved(self) -> bool:
        metrics = http.get(f"{self.url}/metrics")
        parts = sum(map(int, _PARTS.findall(metrics)))
        listed = sum(len(json.loads(each.read_text()) or ()) for each in self.data.glob("partitions/*/*/parts.json"))
        return not any(map(int, _PENDING.findall(metrics))) and parts == listed > 0


def _range(start_ns: int | None, end_ns: int | None) -> dict[str, Any]:
    now_ns = time.time_ns()
    start = now_ns - LATELY_S * S if start_ns is None else start_ns
    return {"start": start, "end": now_ns + 60 * S if end_ns is None else end_ns}


def _line(text: str) -> Line:
    fields = json.loads(text)
    found = _TIME.fullmatch(fields.pop("_time"))
    assert found, text
    seconds = int(datetime.fromisoformat(f"{found['seconds']}+00:00").timestamp())
    return seconds * S + int((found["fraction"] or "0").ljust(9, "0")), fields.pop("_msg", ""), fields
