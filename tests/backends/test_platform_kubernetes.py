"""The Collectors as the manifests start them: their environment, and what the README has one make, nothing else.

What is changed is what one machine has to have different: addresses, ports and paths; and pauses, so that no test
waits for them.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import yaml

from tests.support import collector_tiers as tiers
from tests.support.backends import Collector, Programs, Prometheus, eventually, http
from tests.support.backends.server import loopback
from tests.support.collector import BAD_REQUEST, LONGEST_S, HttpCollector
from tests.support.manifests import (
    CONFIG,
    KUBERNETES,
    KUSTOMIZATION,
    container_environment,
    literals,
    manifest,
    pod_templates,
    shell_blocks,
    yaml_blocks,
)
from tests.support.otlp_senders import send_logs, send_spans, span

README = KUBERNETES / "README.md"
AGENT, GATEWAY = ("DaemonSet", "otel-agent"), ("StatefulSet", "otel-gateway")


def environment(kind: str, name: str, folder: Path) -> dict[str, str]:
    """A workload's environment, with the files of its volumes in a folder."""
    (template,) = pod_templates(manifest(kind, name))
    given = container_environment(template["spec"]["containers"][0])
    given["GATEWAY_TOKEN"] = (folder / "token").read_text()
    files = {key: value for key, value in given.items() if value.startswith("/etc/otelcol/")}
    return given | {key: str(folder / PurePosixPath(value).name) for key, value in files.items()}


@dataclass
class Cluster:
    """An agent and a gateway of the manifests, which are not started yet, and the backend of all signals."""

    agent: Collector
    gateway: Collector
    backend: HttpCollector


@pytest.fixture
def cluster(tmp_path: Path, programs: Programs, backend: HttpCollector) -> Cluster:
    """One of each, with the secrets that the README's commands make."""
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    commands = [line for line in shell_blocks(README).splitlines() if line.startswith("openssl")]
    subprocess.run(["/bin/bash", "-ec", "\n".join(commands)], cwd=secrets, check=True, capture_output=True)
    of_gateway = environment(*GATEWAY, secrets)
    for signal in ("logs", "metrics", "traces"):
        of_gateway[f"{signal.upper()}_ENDPOINT"] = backend.endpoint_of(signal).removesuffix(f"/v1/{signal}")
    soon = {"processors": {"tail_sampling": {"decision_wait": "1s"}}}
    of_gateway |= {"GATEWAY_PEERS": "127.0.0.1", "QUEUE_DIR": str(tmp_path / "gateway" / "data" / "file_storage")}
    gateway = Collector(CONFIG / "gateway.yaml", tmp_path / "gateway", env=of_gateway)
    port = tiers.peer_of(gateway).rpartition(":")[2]
    peers = {"exporters": {"load_balancing": {"resolver": {"dns": {"port": port}}}}}
    gateway.overrides = tiers.merged(soon, peers, tiers.haste("load_balancing"))
    of_agent = environment(*AGENT, secrets) | {"QUEUE_DIR": str(tmp_path / "agent" / "data" / "file_storage")}
    named = {"endpoint": tiers.nodes_of(gateway), "tls": {"server_name_override": "otel-gateway"}}
    agent = Collector(
        CONFIG / "agent.yaml", tmp_path / "agent", env=of_agent, overrides={"exporters": {"otlp_grpc/gateway": named}}
    )
    return Cluster(agent, gateway, backend)


def test_what_a_node_takes_arrives_by_the_manifests_environment_and_the_readmes_secrets(cluster: Cluster) -> None:
    """Token, certificate and its name on both ways: agent to gateway, and gateway to peer by the DNS resolver."""
    with cluster.gateway, cluster.agent:
        send_logs(cluster.agent.otlp_grpc, ["one"])
        send_spans(cluster.agent.otlp_grpc, [span(1, 1, error=True)])
        assert cluster.backend.wait_until(lambda: bool(cluster.backend.records() and cluster.backend.spans()))
        resource, _ = cluster.backend.records()[0]
        assert resource["cluster"] == cluster.agent.env["CLUSTER_NAME"] == "my-cluster"
        # what the manifests' probes ask
        for each in (cluster.agent, cluster.gateway):
            assert eventually(lambda each=each: all(http.answers(f"http://{at}/") for at in each._health))


def test_the_first_gateway_is_ready_without_a_peer_and_keeps_what_it_takes(cluster: Cluster) -> None:
    """The peers' Service names gateways that are ready alone, and at first there is none, not even this one."""
    named = cluster.gateway.env["GATEWAY_PEERS"]
    cluster.gateway.env["GATEWAY_PEERS"] = "no peer is ready"
    with cluster.gateway, cluster.agent:  # ready by its health check, as the probes ask it
        send_spans(cluster.agent.otlp_grpc, [span(1, 1, error=True)])
        assert eventually(lambda: cluster.gateway.metrics()["otelcol_receiver_accepted_spans"] == 1, LONGEST_S)
        cluster.gateway.stop()
        assert cluster.backend.spans() == []
        cluster.gateway.env["GATEWAY_PEERS"] = named
        cluster.gateway.start()
        assert cluster.backend.wait_until(lambda: bool(cluster.backend.spans()))


def discovered(kind: str, name: str, at: Collector) -> list[dict[str, Any]]:
    """What discovery by ``role: pod`` finds of a pod: a target for each port of a container, with these labels.

    By https://prometheus.io/docs/prometheus/latest/configuration/configuration/#pod; there is no API server here.
    """
    (template,) = pod_templates(manifest(kind, name))
    labels = {"__meta_kubernetes_pod_name": f"{name}-0", "__meta_kubernetes_pod_node_name": f"node-of-{name}"}
    for key, value in template["metadata"].get("annotations", {}).items():
        labels["__meta_kubernetes_pod_annotation_" + re.sub(r"\W", "_", key)] = value
    return [
        {
            "targets": [at.telemetry if port["name"] == "metrics" else loopback()],
            "labels": labels | {"__meta_kubernetes_pod_container_port_number": str(port["containerPort"])},
        }
        for port in template["spec"]["containers"][0]["ports"]
    ]


def test_prometheus_finds_the_numbers_as_the_readme_says_and_its_rules_see_what_is_lost(
    cluster: Cluster, programs: Programs, tmp_path: Path
) -> None:
    """From an annotation to an alert: one target for each pod, and a loss on the gateway under the cluster's name."""
    folder = tmp_path / "prometheus"
    shutil.copytree(CONFIG / "rules", folder / "rules")
    (config,) = (block for block in yaml_blocks(README) if "scrape_configs" in block)
    shown = folder / "shown.yaml"
    shown.write_text(yaml.safe_dump(config))
    subprocess.run([programs.promtool, "check", "config", "--lint=all", "--lint-fatal", shown], check=True, timeout=60)

    (job,) = config["scrape_configs"]
    assert job.pop("kubernetes_sd_configs") == [{"role": "pod", "namespaces": {"names": [KUSTOMIZATION["namespace"]]}}]
    job["static_configs"] = [*discovered(*AGENT, cluster.agent), *discovered(*GATEWAY, cluster.gateway)]
    config["global"] = {"scrape_interval": "2s", "scrape_timeout": "2s", "evaluation_interval": "1s"}
    tried = folder / "tried.yaml"
    tried.write_text(yaml.safe_dump(config))
    cluster.backend.behaviour = BAD_REQUEST
    with cluster.gateway, cluster.agent, Prometheus(folder, tried) as prometheus:
        asked = f"{prometheus.url}/api/v1/targets"
        found = eventually(lambda: http.get_json(asked, {"state": "active"})["data"]["activeTargets"])
        assert sorted((each["scrapeUrl"], each["labels"]["instance"]) for each in found) == sorted(
            [
                (f"http://{cluster.agent.telemetry}/metrics", "otel-agent-0"),
                (f"http://{cluster.gateway.telemetry}/metrics", "otel-gateway-0"),
            ]
        )
        assert eventually(lambda: len(prometheus.query('up{job="otelcol"} == 1')) == 2, LONGEST_S)
        send_logs(cluster.agent.otlp_grpc, ["one"])
        named = literals("otel-site")["CLUSTER_NAME"]
        seen = f'torchelastic_collector:lost_items:last{{cluster="{named}"}} > 0'
        lost = eventually(lambda: prometheus.query(seen), LONGEST_S)
        assert [(labels["instance"], labels["exporter"]) for labels, _ in lost] == [
            ("otel-gateway-0", "otlp_http/logs")
        ]
        alerts = {rule["name"] for rule in prometheus.rules() if rule["type"] == "alerting"}
        assert "TorchelasticCollectorLosing" in alerts
