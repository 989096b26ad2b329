"""What the README of the manifests has one do, done as far as it goes without a cluster."""

from __future__ import annotations

import re
import socket
import ssl
import subprocess
import threading
from pathlib import Path

import jsonschema
import pytest
import yaml

from tests.support.manifests import (
    CONFIG,
    EXAMPLES,
    KUBERNETES,
    KUSTOMIZATION,
    documents,
    literals,
    manifests,
    pod_templates,
    shell_blocks,
    yaml_blocks,
)
from torchelastic_otel.cli import COMMANDS

README = KUBERNETES / "README.md"


def test_the_certificate_is_one_that_agents_and_peers_trust(tmp_path: Path) -> None:
    """A handshake with what the README's commands make, for the name that the Collectors ask for."""
    commands = [line for line in shell_blocks(README).splitlines() if line.startswith("openssl")]
    subprocess.run(
        ["/bin/bash", "-euo", "pipefail", "-c", "\n".join(commands)], cwd=tmp_path, check=True, capture_output=True
    )
    assert re.fullmatch("[0-9a-f]{64}", (tmp_path / "token").read_text())
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "tls.crt", tmp_path / "tls.key")
    client = ssl.create_default_context(cafile=tmp_path / "ca.crt")
    client.verify_flags |= ssl.VerifyFlags.VERIFY_X509_STRICT
    name = literals("otel-site")["GATEWAY_ENDPOINT"].partition(":")[0]
    for asked, trusted in ((name, True), ("otel-gateway.example.com", False)):
        ours, theirs = socket.socketpair()
        ours.settimeout(10)
        theirs.settimeout(10)
        serving = threading.Thread(target=_shake_hands, args=(server, theirs))
        serving.start()
        try:
            with client.wrap_socket(ours, server_hostname=asked):
                assert trusted
        except ssl.SSLCertVerificationError:
            assert not trusted
        finally:
            serving.join(20)


def _shake_hands(context: ssl.SSLContext, sock: socket.socket) -> None:
    try:
        context.wrap_socket(sock, server_side=True).close()
    except OSError:
        sock.close()  # the client did not trust it, and says so itself


@pytest.mark.parametrize("readme", [README, CONFIG / "slurm" / "README.md"], ids=["kubernetes", "slurm"])
def test_every_file_that_a_readme_names_is_there(readme: Path) -> None:
    """Links, and paths in commands."""
    text = readme.read_text()
    links = re.findall(r"\]\(([\w./-]+)\)", text)
    assert links
    for link in links:
        assert (readme.parent / link).exists(), link
    for path in re.findall(r"(?<=\s)((?:kubernetes|slurm)/[\w./-]+)", shell_blocks(readme)):
        assert (CONFIG / path).exists(), path
    commands = set(re.findall(r"(?<!/)torchelastic-otel ([a-z]+)\b", shell_blocks(readme)))
    assert commands <= {command.name for command in COMMANDS}


def test_every_manifest_and_example_stands_in_the_readme() -> None:
    """And the pods and containers that its commands look at are those of the example."""
    text = README.read_text()
    for path in KUBERNETES.glob("*.yaml"):
        assert f"({path.name})" in text
    (job,) = documents(EXAMPLES / "pytorchjob.yaml")
    name, namespace = job["metadata"]["name"], job["metadata"]["namespace"]
    pod = job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]
    shown = re.findall(rf"kubectl -n {namespace} (?:exec|logs) (\S+) -c (\S+)", text)
    assert {each for each, _ in shown} == {f"{name}-worker-0"}
    assert {each for _, each in shown} == {each["name"] for each in pod["containers"] + pod["initContainers"]}


def test_the_namespaces_of_collectors_and_jobs_are_made_before_they_are_used() -> None:
    """What is applied into a namespace that is not there is refused."""
    lines = shell_blocks(README).splitlines()
    spaces = {documents(path)[0]["metadata"]["namespace"] for path in EXAMPLES.glob("*.yaml")}
    made = [lines.index(f"kubectl create namespace {name}") for name in spaces]
    used = [number for number, line in enumerate(lines) if "kubernetes/examples/" in line]
    assert made
    assert used
    assert max(made) < min(used)
    # the Collectors' own: before the secrets that go there
    own = lines.index("kubectl apply -f kubernetes/namespace.yaml")
    assert own < min(number for number, line in enumerate(lines) if f"-n {KUSTOMIZATION['namespace']}" in line)


def test_the_pod_monitor_finds_both_collectors() -> None:
    """Fields as the operator's monitoring.coreos.com_podmonitors.yaml has them (github.com/prometheus-operator)."""
    (found,) = (block for block in yaml_blocks(README) if block.get("kind") == "PodMonitor")
    text = {"type": "string"}
    relabeling = {"sourceLabels": {"type": "array", "items": text}, "targetLabel": text, "replacement": text}
    endpoint = {"port": text, "relabelings": {"type": "array", "items": _closed(relabeling)}}
    schema = {
        "apiVersion": {"const": "monitoring.coreos.com/v1"},
        "kind": {"const": "PodMonitor"},
        "metadata": {"type": "object"},
        "spec": _closed(
            {
                "selector": _closed({"matchLabels": {"type": "object", "additionalProperties": text}}),
                "podMetricsEndpoints": {"type": "array", "items": _closed(endpoint)},
            }
        ),
    }
    jsonschema.validate(found, _closed(schema))
    assert found["metadata"]["namespace"] == KUSTOMIZATION["namespace"]
    wanted = found["spec"]["selector"]["matchLabels"].items()
    (asked,) = found["spec"]["podMetricsEndpoints"]
    for template in (template for each in manifests() for template in pod_templates(each)):
        assert wanted <= template["metadata"]["labels"].items()
        assert asked["port"] in [port["name"] for port in template["spec"]["containers"][0]["ports"]]
    set_to = {each["targetLabel"]: each.get("replacement") for each in asked["relabelings"]}
    assert set_to["cluster"] == literals("otel-site")["CLUSTER_NAME"]


def _closed(properties: dict[str, object]) -> dict[str, object]:
    return {"type": "object", "properties": properties, "additionalProperties": False}


def test_the_operator_is_given_the_rules_as_they_are(tmp_path: Path) -> None:
    """The README's lines in bash, with a kubectl that writes down what it is given."""
    (command,) = re.findall(r"^for name in .*?^done$", shell_blocks(README), re.DOTALL | re.MULTILINE)
    kubectl = tmp_path / "kubectl"
    kubectl.write_text(
        f'#!/bin/sh\n[ "$*" = "-n telemetry apply -f -" ] && {{ cat; echo ---; }} >>{tmp_path}/applied\n'
    )
    kubectl.chmod(0o755)
    subprocess.run(
        ["/bin/bash", "-euo", "pipefail", "-c", command], cwd=CONFIG, env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        check=True, timeout=60,
    )  # fmt: skip
    applied = [each for each in yaml.safe_load_all((tmp_path / "applied").read_text()) if each]
    files = sorted((CONFIG / "rules").glob("*.yaml"), reverse=True)
    assert [each["spec"] for each in applied] == [yaml.safe_load(file.read_text()) for file in files]
    assert [each["metadata"]["name"] for each in applied] == [f"torchelastic-{file.stem}" for file in files]
    assert {each["kind"] for each in applied} == {"PrometheusRule"}
