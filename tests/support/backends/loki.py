"""Loki, one process, on a folder, where one is on PATH: this project neither builds nor ships it.

Its configuration is ``collector-config/quickstart/loki.yaml``.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.backends import http
from tests.support.backends.programs import find_loki
from tests.support.backends.server import Server, loopback

CONFIG = Path(__file__).resolve().parents[3] / "collector-config" / "quickstart" / "loki.yaml"
S = 1_000_000_000
# In one process the parts of a query find each other at the second look; by default the next one is after 10 s.
QUICKLY = ["-frontend.scheduler-dns-lookup-period=200ms", "-querier.dns-lookup-period=200ms"]
LATELY_S = 6 * 3600
"""How far back a query looks that does not say."""

Line = tuple[int, str, dict[str, str]]
"""Time in nanoseconds; body; labels and structured metadata in one, names with underscores."""


class Loki(Server):
    """One Loki.

    Its configuration gets ``LOKI_HTTP_PORT``, ``LOKI_GRPC_PORT``, ``LOKI_GOSSIP_PORT`` and ``LOKI_DATA`` by
    ``-config.expand-env``.

    Attributes:
        url: Its API, and what Grafana calls it by.
        otlp: For the Collector's ``otlp_http`` exporter.
    """

    name = "loki"

    def __init__(
        self, folder: Path, config: Path = CONFIG, *, env: Mapping[str, str] | None = None, program: Path | None = None
    ) -> None:
        program = program or find_loki()
        assert program is not None, "no loki on PATH"
        super().__init__(program, folder, env)
        self.config = config
        self.address, self.grpc, self.gossip = loopback(), loopback(), loopback()
        self.url = f"http://{self.address}"
        self.otlp = f"{self.url}/otlp"

    def command(self) -> list[str]:
        """Loki and its arguments."""
        return [str(self.program), f"-config.file={self.config}", "-config.expand-env=true", *QUICKLY]

    def environment(self) -> dict[str, str]:
        """With what the configuration leaves open."""
        return {
            **super().environment(),
            "LOKI_HTTP_PORT": self.address.rpartition(":")[2],
            "LOKI_GRPC_PORT": self.grpc.rpartition(":")[2],
            "LOKI_GOSSIP_PORT": self.gossip.rpartition(":")[2],
            "LOKI_DATA": str(self.data),
            **self.env,
        }

    @staticmethod
    def field(attribute: str) -> str:
        """The name of an attribute, in answers."""
        return attribute.replace(".", "_")

    @classmethod
    def selector(cls, conditions: Mapping[str, object], service: str = "torchrun") -> str:
        """The query for the records of a service with these attributes."""
        filters = (f' | {cls.field(name)}="{value}"' for name, value in conditions.items())
        return f'{{service_name="{service}"}}' + "".join(filters)

    def is_ready(self) -> bool:
        """Whether it takes and answers."""
        return http.answers(f"{self.url}/ready")

    def query(
        self, logql: str, *, start_ns: int | None = None, end_ns: int | None = None, limit: int = 5000
    ) -> list[Line]:
        """Log lines of a stream query, the oldest first. From six hours ago to now where it does not say."""
        now = time.time_ns()
        asked = {
            "query": logql,
            "start": now - LATELY_S * S if start_ns is None else start_ns,
            "end": now + 60 * S if end_ns is None else end_ns,
            "limit": limit,
            "direction": "forward",
        }
        data = http.get_json(f"{self.url}/loki/api/v1/query_range", asked)["data"]
        assert data["resultType"] == "streams", f"a query of numbers: use instant() or range(): {logql}"
        lines = [(int(at), body, dict(found["stream"])) for found in data["result"] for at, body, *_ in found["values"]]
        return sorted(lines, key=lambda line: line[0])

    def instant(self, logql: str, *, at_ns: int | None = None) -> list[tuple[dict[str, str], float]]:
        """Labels and number of each series of a metric query, as of now where no time is given."""
        asked = {"query": logql, "time": at_ns if at_ns is not None else time.time_ns()}
        found = http.get_json(f"{self.url}/loki/api/v1/query", asked)["data"]["result"]
        return [(dict(one["metric"]), float(one["value"][1])) for one in found]

    def count(self, conditions: Mapping[str, object], service: str = "torchrun") -> int:
        """The number of a service's records with these attributes, of the last hour."""
        query = f"sum(count_over_time({self.selector(conditions, service)} [1h]))"
        return int(sum(number for _, number in self.instant(query)))

    def range(self, logql: str, start_s: float, end_s: float, step_s: float) -> list[tuple[dict[str, str], list[Any]]]:
        """Labels and (seconds, number) pairs of each series of a metric query."""
        asked = {"query": logql, "start": int(start_s * S), "end": int(end_s * S), "step": f"{step_s}s"}
        found = http.get_json(f"{self.url}/loki/api/v1/query_range", asked)["data"]["result"]
        return [(dict(one["metric"]), [(float(at), float(n)) for at, n in one["values"]]) for one in found]

    def label_values(self, label: str) -> list[str]:
        """All values of a label: what a variable of a dashboard offers."""
        start = time.time_ns() - LATELY_S * S
        return list(http.get_json(f"{self.url}/loki/api/v1/label/{label}/values", {"start": start}).get("data") or [])
