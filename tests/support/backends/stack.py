"""All of them at once: the Collector on the quickstart's configuration, in front of Loki, Prometheus and Jaeger."""

from __future__ import annotations

from pathlib import Path

import yaml

from support.backends.collector import Collector
from support.backends.jaeger import Jaeger
from support.backends.loki import Loki
from support.backends.prometheus import CONFIG as PROMETHEUS_CONFIG
from support.backends.prometheus import Prometheus
from support.backends.server import NotReady

QUICKSTART = Path(__file__).resolve().parents[3] / "collector-config" / "quickstart.yaml"


class Stack:
    """The quickstart, on ports of its own.

    Attributes:
        collector, loki, prometheus, jaeger: Each can be killed and started again by itself.
        otlp_grpc, otlp_http: The Collector's endpoints, with ``http://``.
    """

    def __init__(self, folder: Path) -> None:
        self.loki = Loki(folder / "loki")
        self.jaeger = Jaeger(folder / "jaeger")
        # Prometheus scrapes the Collector and the Collector writes to Prometheus: neither can be made first
        self.prometheus = Prometheus(folder / "prometheus", folder / "prometheus" / "prometheus.yaml")
        self.collector = Collector(
            QUICKSTART,
            folder / "collector",
            env={
                "LOKI_ENDPOINT": self.loki.otlp,
                "PROMETHEUS_ENDPOINT": self.prometheus.otlp,
                "TRACES_ENDPOINT": self.jaeger.otlp_grpc,
                "CLUSTER_NAME": "cluster-of-the-tests",
            },
        )
        self.prometheus.config.write_text(_scraping(self.collector.telemetry))
        self.otlp_grpc, self.otlp_http = self.collector.otlp_grpc, self.collector.otlp_http

    @property
    def otlp_environment(self) -> dict[str, str]:
        """For a job that sends to it, by gRPC."""
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": self.otlp_grpc, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}

    def start(self) -> Stack:
        """All, the backends first. Where one does not come up the others are gone again."""
        try:
            for server in (self.loki, self.prometheus, self.jaeger, self.collector):
                server.start()
        except NotReady:
            self.kill()
            raise
        return self

    def kill(self) -> None:
        """All at once: what they hold is a test's, and nobody wants it."""
        for server in (self.collector, self.loki, self.prometheus, self.jaeger):
            server.kill()


def _scraping(telemetry: str) -> str:
    """The quickstart's configuration for Prometheus, with the Collector's address, and rules found from anywhere."""
    config = yaml.safe_load(PROMETHEUS_CONFIG.read_text())
    (job,) = [job for job in config["scrape_configs"] if job["job_name"] == "otelcol"]
    job["static_configs"] = [{"targets": [telemetry]}]
    config["rule_files"] = [str((PROMETHEUS_CONFIG.parent / file).resolve()) for file in config.get("rule_files", [])]
    return str(yaml.safe_dump(config, sort_keys=False))
