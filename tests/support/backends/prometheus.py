"""Prometheus, fed by OTLP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.backends import http
from tests.support.backends.programs import find_programs
from tests.support.backends.server import Server, loopback

CONFIG = Path(__file__).resolve().parents[3] / "collector-config" / "quickstart" / "prometheus.yaml"

Sample = tuple[dict[str, str], float]
Series = tuple[dict[str, str], list[tuple[float, float]]]
"""Labels; (seconds since the epoch, number) pairs."""


class Prometheus(Server):
    """One Prometheus.

    Args:
        folder: Its data and its log.
        config: The quickstart's where it is not given.
        args: Further flags.
        env: For its environment.
        program: Else the one of ``scripts/backends``.

    Attributes:
        url: Its API, and what Grafana calls it by.
        otlp: For the Collector's ``otlp_http`` exporter: it adds ``/v1/metrics``.
    """

    name = "prometheus"

    def __init__(
        self, folder: Path, config: Path = CONFIG, *, args: Sequence[str] = (),
        env: Mapping[str, str] | None = None, program: Path | None = None,
    ) -> None:  # fmt: skip
        super().__init__(program or find_programs().prometheus, folder, env)
        self.config = config
        self.args = list(args)
        self.address = loopback()
        self.url = f"http://{self.address}"
        self.otlp = f"{self.url}/api/v1/otlp"

    def command(self) -> list[str]:
        """Prometheus and its flags."""
        return [
            str(self.program),
            f"--config.file={self.config}",
            f"--storage.tsdb.path={self.data}",
            f"--web.listen-address={self.address}",
            "--web.enable-otlp-receiver",
            "--web.enable-lifecycle",
            *self.args,
        ]

    def is_ready(self) -> bool:
        """Whether it takes and answers."""
        return http.answers(f"{self.url}/-/ready")

    def reload(self) -> None:
        """Read the configuration and the rules again. Raises :class:`http.Refused` where they are wrong."""
        http.get(f"{self.url}/-/reload", post=True)

    def query(self, promql: str, at_s: float | None = None) -> list[Sample]:
        """Labels and number of each series, as of now where no time is given; a scalar is one without labels."""
        data = http.get_json(f"{self.url}/api/v1/query", {"query": promql, "time": at_s})["data"]
        if data["resultType"] == "scalar":
            return [({}, float(data["result"][1]))]
        return [(dict(one["metric"]), float(one["value"][1])) for one in data["result"]]

    def range(self, promql: str, start_s: float, end_s: float, step_s: float) -> list[Series]:
        """The same over a time, in steps."""
        asked = {"query": promql, "start": start_s, "end": end_s, "step": step_s}
        found = http.get_json(f"{self.url}/api/v1/query_range", asked)["data"]["result"]
        return [(dict(one["metric"]), [(float(at), float(n)) for at, n in one["values"]]) for one in found]

    def label_values(self, label: str, *matching: str) -> list[str]:
        """All values of a label, of the series that match: what a variable of a dashboard offers."""
        return list(http.get_json(f"{self.url}/api/v1/label/{label}/values", {"match[]": list(matching)})["data"])

    def alerts(self) -> list[dict[str, Any]]:
        """What is pending or firing now: ``labels``, ``annotations``, ``state``, ``activeAt``, ``value``."""
        return list(http.get_json(f"{self.url}/api/v1/alerts")["data"]["alerts"])

    def rules(self) -> list[dict[str, Any]]:
        """All rules, each with ``health`` and ``lastError``."""
        groups = http.get_json(f"{self.url}/api/v1/rules")["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]
