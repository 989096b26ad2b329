"""The node's Collector as Slurm's files start it, and Prometheus as their README has one find it."""

from __future__ import annotations

import shutil
import socket
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.support import collector_tiers as tiers
from tests.support.backends import Collector, Programs, Prometheus, eventually
from tests.support.collector import LONGEST_S
from tests.support.manifests import CONFIG, SLURM, environment_file, shell_blocks, yaml_blocks

README = SLURM / "README.md"
SETTINGS = SLURM / "agent.env"


@pytest.fixture
def node(tmp_path: Path, programs: Programs, monkeypatch: pytest.MonkeyPatch) -> Collector:
    """A node's Collector with what ``agent.env`` says as it is shipped; its certificate is in the test's folder."""
    monkeypatch.delenv("GATEWAY_TOKEN", raising=False)
    shared = tiers.Secrets.make(tmp_path / "secrets")
    told = environment_file(SETTINGS) | {"GATEWAY_CA_FILE": str(shared.certificate[0])}
    told["QUEUE_DIR"] = str(tmp_path / "agent" / "data" / "file_storage")
    return Collector(CONFIG / "agent.yaml", tmp_path / "agent", env=told)


@pytest.mark.parametrize("token", [None, ""], ids=["as it is shipped", "with the line's mark taken away"])
def test_a_collector_whose_token_nobody_has_filled_in_does_not_start(node: Collector, token: str | None) -> None:
    """With a token that is wrong it would: the gateway then refuses batch after batch, and each is lost."""
    if token is not None:
        node.env["GATEWAY_TOKEN"] = token
    done = subprocess.run(
        node.command(), env=node.environment(), capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1
    assert "no bearer token provided" in done.stderr


def test_a_collector_whose_port_a_job_has_taken_does_not_start(node: Collector) -> None:
    """Hence the port of its numbers is not the first one that a Jupyter takes: the node would keep its spools."""
    node.env["GATEWAY_TOKEN"] = "a token"
    host, _, port = node.telemetry.rpartition(":")
    with socket.create_server((host, int(port))):
        done = subprocess.run(
            node.command(), env=node.environment(), capture_output=True, text=True, check=False, timeout=60
        )
    assert done.returncode == 1
    assert f"{node.telemetry}: bind: address already in use" in done.stderr


def test_prometheus_finds_a_node_as_the_readme_says(node: Collector, programs: Programs, tmp_path: Path) -> None:
    """With the list of nodes that Slurm tells: once each, by name, on the port that the settings say."""
    folder = tmp_path / "prometheus"
    shutil.copytree(CONFIG / "rules", folder / "rules")
    sinfo = tmp_path / "sinfo"
    # a node is there once for each of its partitions
    sinfo.write_text(
        '#!/bin/bash\n[ "${*:1:3}" = "--Node --noheader --format" ] && printf "${4//%N/127.0.0.1}\\n%.0s" 1 2\n'
    )
    sinfo.chmod(0o755)
    (command,) = (line for line in shell_blocks(README).splitlines() if "sinfo" in line)
    told, here = environment_file(SETTINGS)["TELEMETRY_PORT"], node.telemetry.rpartition(":")[2]
    assert f":{told}" in command
    subprocess.run(
        ["/bin/bash", "-euo", "pipefail", "-c", command.replace(f":{told}", f":{here}")], cwd=folder, check=True,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, timeout=60,
    )  # fmt: skip
    assert yaml.safe_load((folder / "otelcol-nodes.yaml").read_text()) == [{"targets": [node.telemetry]}]
    (config,) = yaml_blocks(README)
    shown = folder / "shown.yaml"
    shown.write_text(yaml.safe_dump(config | {"global": {"scrape_interval": "2s", "scrape_timeout": "2s"}}))
    checked = subprocess.run(
        [programs.promtool, "check", "config", "--lint=all", "--lint-fatal", shown],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (checked.returncode, "WARNING" in checked.stdout + checked.stderr) == (0, False), checked.stdout
    node.env["GATEWAY_TOKEN"] = "a token"
    with node, Prometheus(folder, shown) as prometheus:
        (up,) = eventually(lambda: prometheus.query('up{job="otelcol"} == 1'), LONGEST_S)
        cluster = environment_file(SETTINGS)["CLUSTER_NAME"]
        assert (up[0]["instance"], up[0]["cluster"]) == (node.telemetry, cluster)
        assert prometheus.rules()
