"""All of them at once: the Collector on the quickstart's configuration, in front of its three backends.

If a Loki is on PATH, the Collector sends all log records to it as well.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tests.support.backends.collector import Collector
from tests.support.backends.jaeger import Jaeger
from tests.support.backends.loki import Loki
from tests.support.backends.programs import find_loki
from tests.support.backends.prometheus import CONFIG as PROMETHEUS_CONFIG
from tests.support.backends.prometheus import Prometheus
from tests.support.backends.server import NotReady, Server
from tests.support.backends.victorialogs import VictoriaLogs

CONFIGS = Path(__file__).resolve().parents[3] / "collector-config"
QUICKSTART = CONFIGS / "quickstart.yaml"
WITH_LOKI = CONFIGS / "quickstart" / "with-loki.yaml"
"""Merged over quickstart.yaml, it sends the log records to Loki."""

LogStore = VictoriaLogs | Loki


class Stack:
    """The quickstart, on ports of its own.

    Attributes:
        collector, victorialogs, prometheus, jaeger: Each can be killed and started again by itself.
        loki: The same, if there is one on PATH.
        otlp_grpc, otlp_http: The Collector's endpoints, with ``http://``.
    """

    def __init__(self, folder: Path) -> None:
        self.victorialogs = VictoriaLogs(folder / "victorialogs")
        self.loki = Loki(folder / "loki") if find_loki() else None
        self.jaeger = Jaeger(folder / "jaeger")
        # Prometheus scrapes the Collector and the Collector writes to Prometheus: neither can be made first
        self.prometheus = Prometheus(folder / "prometheus", folder / "prometheus" / "prometheus.yaml")
        self.collector = Collector(
            QUICKSTART,
            folder / "collector",
            env={
                "LOGS_ENDPOINT": self.victorialogs.otlp,
                "METRICS_ENDPOINT": self.prometheus.otlp,
                "TRACES_ENDPOINT": self.jaeger.otlp_grpc,
                "CLUSTER_NAME": "cluster-of-the-tests",
            },
            overrides=also_to_loki(self.loki) if self.loki else None,
        )
        self.prometheus.config.write_text(_scraping(self.collector.telemetry))
        self.otlp_grpc, self.otlp_http = self.collector.otlp_grpc, self.collector.otlp_http

    @property
    def otlp_environment(self) -> dict[str, str]:
        """For a job that sends to it, by gRPC."""
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": self.otlp_grpc, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}

    @property
    def backends(self) -> list[Server]:
        """What the Collector sends to."""
        return [self.victorialogs, *([self.loki] if self.loki else []), self.prometheus, self.jaeger]

    def start(self) -> Stack:
        """All, the backends first. If one does not come up, the others are killed again."""
        try:
            for server in (*self.backends, self.collector):
                server.start()
        except NotReady:
            self.kill()
            raise
        return self

    def kill(self) -> None:
        """All at once; their data is not needed any more."""
        for server in (self.collector, *self.backends):
            server.kill()


def also_to_loki(loki: Loki) -> dict[str, Any]:
    """A second pipeline of logs, made of what with-loki.yaml changes in the first."""
    changes, quickstart = (yaml.safe_load(path.read_text()) for path in (WITH_LOKI, QUICKSTART))
    exporter = {**quickstart["exporters"]["otlp_http/logs"], **changes["exporters"]["otlp_http/logs"]}
    logs = {**quickstart["service"]["pipelines"]["logs"], **changes["service"]["pipelines"]["logs"]}
    return {
        "processors": changes["processors"],
        "exporters": {"otlp_http/loki": {**exporter, "endpoint": loki.otlp}},
        "service": {"pipelines": {"logs/loki": {**logs, "exporters": ["otlp_http/loki"]}}},
    }


def _scraping(telemetry: str) -> str:
    """The quickstart's configuration of Prometheus, with the Collector's address and absolute paths of the rules."""
    config = yaml.safe_load(PROMETHEUS_CONFIG.read_text())
    (job,) = [job for job in config["scrape_configs"] if job["job_name"] == "otelcol"]
    job["static_configs"] = [{"targets": [telemetry]}]
    config["rule_files"] = [str((PROMETHEUS_CONFIG.parent / file).resolve()) for file in config.get("rule_files", [])]
    return str(yaml.safe_dump(config, sort_keys=False))
