"""Our tiers of Collectors as they are shipped, wired to each other on loopback with real certificates and a real token.

The files of ``collector-config`` run unchanged except for addresses, directories and, to save half a minute per test,
the pauses between attempts (:func:`haste`). Every Collector has the directory that is passed.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.backends import Collector, Stack
from tests.support.collector import Collector as Receiver
from tests.support.collector import make_certificate

CONFIGS = Path(__file__).resolve().parents[2] / "collector-config"
_TROUBLE = re.compile(r"^\S+\t(warn|error|dpanic|panic|fatal)\t", re.MULTILINE)

Overrides = Mapping[str, Any]
Backend = Receiver | Stack
"""A receiver of all three signals, or the real VictoriaLogs, Prometheus and Jaeger."""


@dataclass(frozen=True)
class Secrets:
    """What the nodes and the gateway share.

    Attributes:
        certificate: In PEM, for 127.0.0.1 and ``localhost``, its own authority; and its key.
        token: The bearer token.
    """

    certificate: tuple[Path, Path]
    token: str = field(default_factory=lambda: secrets.token_hex(16))

    @classmethod
    def make(cls, folder: Path) -> Secrets:
        """New ones, by openssl."""
        folder.mkdir(parents=True, exist_ok=True)
        return cls(make_certificate(folder))


def haste(*exporters: str, s: float = 0.5) -> dict[str, Any]:
    """Exporters that try again after ``s`` seconds at the most."""
    retry = {"retry_on_failure": {"initial_interval": "100ms", "max_interval": f"{s}s"}}
    return {"exporters": dict.fromkeys(exporters, retry)}


def merged(*overrides: Overrides) -> dict[str, Any]:
    """Overrides over overrides, as the Collector merges configurations."""
    result: dict[str, Any] = {}
    for each in overrides:
        for key, value in each.items():
            deep = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
            result[key] = merged(result[key], value) if deep else value
    return result


def agent(
    folder: Path, gateway: str, shared: Secrets, *, overrides: Overrides | None = None, **env: str
) -> Collector:  # fmt: skip
    """``agent.yaml``, sending to ``gateway`` (host:port)."""
    told = {
        "GATEWAY_ENDPOINT": gateway,
        "GATEWAY_TOKEN": shared.token,
        "GATEWAY_CA_FILE": str(shared.certificate[0]),
        "CLUSTER_NAME": "cluster-of-the-tests",
    }
    return _made("agent.yaml", folder, told | env, merged(haste("otlp_grpc/gateway"), overrides or {}))


def gateway(
    folder: Path, backend: Backend, shared: Secrets, *, peers: list[str] | None = None,
    overrides: Overrides | None = None, **env: str,
) -> Collector:  # fmt: skip
    """``gateway.yaml``, sending to a backend; by itself, or one of some (host:port of each one's peer port)."""
    told = {**_served(shared), **_endpoints(backend), "GATEWAY_PEERS": "localhost", "GATEWAY_NAME": "localhost"}
    told |= {"GATEWAY_CA_FILE": str(shared.certificate[0])}
    eager = haste("otlp_http/logs", "otlp_http/metrics", "otlp_http/traces", "load_balancing")
    made = _made("gateway.yaml", folder, told | env, merged(eager, overrides or {}))
    resolver = {"dns": None, "static": {"hostnames": peers or [peer_of(made)]}}
    made.overrides = merged(made.overrides, {"exporters": {"load_balancing": {"resolver": resolver}}})
    return made


def kafka_gateway(
    folder: Path, kafka: Any, shared: Secrets, *, overrides: Overrides | None = None, **env: str
) -> Collector:  # fmt: skip
    """``gateway-kafka.yaml`` in front of a broker."""
    told = {**_served(shared), **_broker(kafka, shared), **env}
    return _made("gateway-kafka.yaml", folder, told, merged(haste("kafka"), overrides or {}))


def consumer(
    folder: Path, kafka: Any, backend: Backend, shared: Secrets, *, overrides: Overrides | None = None, **env: str
) -> Collector:  # fmt: skip
    """``consumer.yaml`` between a broker and a backend."""
    told = {**_broker(kafka, shared), **_endpoints(backend), **env}
    eager = haste("otlp_http/logs", "otlp_http/metrics", "otlp_http/traces")
    return _made("consumer.yaml", folder, told, merged(eager, overrides or {}))


def nodes_of(gateway: Collector) -> str:
    """Where nodes find a gateway, host:port."""
    return gateway.receivers["otlp/nodes", "grpc"]


def peer_of(gateway: Collector) -> str:
    """Where other gateways find it, host:port."""
    return gateway.receivers["otlp/peers", "grpc"]


def trouble(collector: Collector) -> list[str]:
    """The lines of its log that are warnings or worse."""
    return [line for line in collector.text().splitlines() if _TROUBLE.match(line)]


def queued(collector: Collector) -> float:
    """What waits in all its queues, by its own word: bytes."""
    return collector.metrics().get("otelcol_exporter_queue_size", 0.0)


def _made(name: str, folder: Path, env: Mapping[str, str], overrides: Overrides) -> Collector:
    queue = {"QUEUE_DIR": str(folder / "data" / "file_storage")}
    return Collector(CONFIGS / name, folder, env={**queue, **env}, overrides=overrides)


def _served(shared: Secrets) -> dict[str, str]:
    certificate, key = (str(path) for path in shared.certificate)
    return {"GATEWAY_TOKEN": shared.token, "TLS_CERT_FILE": certificate, "TLS_KEY_FILE": key}


def _endpoints(backend: Backend) -> dict[str, str]:
    if isinstance(backend, Stack):
        logs, metrics, traces = backend.victorialogs.otlp, backend.prometheus.otlp, backend.jaeger.otlp_http
        return {"LOGS_ENDPOINT": logs, "METRICS_ENDPOINT": metrics, "TRACES_ENDPOINT": traces}
    url = f"http://127.0.0.1:{backend.port}"
    return {"LOGS_ENDPOINT": url, "METRICS_ENDPOINT": url, "TRACES_ENDPOINT": url}


def _broker(kafka: Any, shared: Secrets) -> dict[str, str]:
    return {
        "KAFKA_BROKERS": kafka.brokers,
        "KAFKA_USERNAME": kafka.username,
        "KAFKA_PASSWORD": kafka.password,
        "KAFKA_CA_FILE": str(shared.certificate[0]),
    }
