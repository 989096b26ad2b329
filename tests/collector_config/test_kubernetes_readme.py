"""What the README of the manifests has one do, done as far as it goes without a cluster."""

from __future__ import annotations

import re
import socket
import ssl
import subprocess
import threading
from pathlib import Path

import pytest
from support.manifests import CONFIG, EXAMPLES, KUBERNETES, documents, literals, shell_blocks

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
