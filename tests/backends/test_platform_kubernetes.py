"""The Collectors as the manifests start them: their environment, and what the README has one make, nothing else.

What is changed is what one machine has to have different: addresses, ports and paths.
"""

from __future__ import annotations

import subprocess
from pathlib import Path, PurePosixPath

from support import collector_tiers as tiers
from support.backends import Collector, Programs, eventually, http
from support.collector import HttpCollector
from support.manifests import CONFIG, KUBERNETES, container_environment, manifest, pod_templates, shell_blocks
from support.otlp_senders import send_logs, send_spans, span


def environment(kind: str, name: str, folder: Path) -> dict[str, str]:
    """A workload's environment, with the files of its volumes in a folder."""
    (template,) = pod_templates(manifest(kind, name))
    given = container_environment(template["spec"]["containers"][0])
    given["GATEWAY_TOKEN"] = (folder / "token").read_text()
    files = {key: value for key, value in given.items() if value.startswith("/etc/otelcol/")}
    return given | {key: str(folder / PurePosixPath(value).name) for key, value in files.items()}


def test_what_a_node_takes_arrives_by_the_manifests_environment_and_the_readmes_secrets(
    tmp_path: Path, programs: Programs
) -> None:
    """Token, certificate and its name on both ways: agent to gateway, and gateway to peer by the DNS resolver."""
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    commands = [line for line in shell_blocks(KUBERNETES / "README.md").splitlines() if line.startswith("openssl")]
    subprocess.run(["/bin/bash", "-ec", "\n".join(commands)], cwd=secrets, check=True, capture_output=True)
    of_gateway = environment("StatefulSet", "otel-gateway", secrets)
    of_agent = environment("DaemonSet", "otel-agent", secrets)
    with HttpCollector() as backend:
        for signal in ("logs", "metrics", "traces"):
            of_gateway[f"{signal.upper()}_ENDPOINT"] = backend.endpoint_of(signal).removesuffix(f"/v1/{signal}")
        soon = {"processors": {"tail_sampling": {"decision_wait": "1s"}}}
        of_gateway |= {"GATEWAY_PEERS": "127.0.0.1", "QUEUE_DIR": str(tmp_path / "gateway" / "data" / "file_storage")}
        gateway = Collector(CONFIG / "gateway.yaml", tmp_path / "gateway", env=of_gateway)
        port = tiers.peer_of(gateway).rpartition(":")[2]
        peers = {"exporters": {"load_balancing": {"resolver": {"dns": {"port": port}}}}}
        gateway.overrides = tiers.merged(soon, peers, tiers.haste("load_balancing"))
        of_agent["QUEUE_DIR"] = str(tmp_path / "agent" / "data" / "file_storage")
        named = {"endpoint": tiers.nodes_of(gateway), "tls": {"server_name_override": "otel-gateway"}}
        agent = Collector(
            CONFIG / "agent.yaml",
            tmp_path / "agent",
            env=of_agent,
            overrides={"exporters": {"otlp_grpc/gateway": named}},
        )
        with gateway, agent:
            send_logs(agent.otlp_grpc, ["one"])
            send_spans(agent.otlp_grpc, [span(1, 1, error=True)])
            assert backend.wait_until(lambda: bool(backend.records() and backend.spans()), 30)
            resource, _ = backend.records()[0]
            assert resource["cluster"] == of_agent["CLUSTER_NAME"] == "my-cluster"
            # what the manifests' probes ask
            for each in (agent, gateway):
                assert eventually(lambda each=each: all(http.answers(f"http://{at}/") for at in each._health))
