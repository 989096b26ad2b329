"""What docs/how-to/vendors.md says to set for a vendor is what our exporters do: path, header and kind of metrics.

The variables are taken from the document as they stand; only the vendor's host becomes a server of the test's.
"""

from __future__ import annotations

import base64
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.live.environments import NEWEST
from tests.live.harness import WORKERS, Agents, by_entry_point, c10d
from tests.support.collector import SIGNALS, HttpCollector
from tests.support.ports import free_port

pytestmark = [pytest.mark.live, pytest.mark.torch]
ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "how-to" / "vendors.md").read_text()
SECRETS = {"INSTANCE_ID": "123456", "TOKEN": "glc_secret", "API_KEY": "hcaik_secret", "DD_API_KEY": "dd_secret"}


def variables(vendor: str, server: str) -> dict[str, str]:
    """What the document's lines for a vendor set, at the server."""
    (lines,) = re.findall(rf"^## {vendor}\n.*?```sh\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE)
    lines = re.sub(r"https://[a-z0-9.-]+", server, lines)
    script = f"set -eu\n{lines}\nenv -0"
    home = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
    done = subprocess.run(["bash", "-c", script], env={**home, **SECRETS}, capture_output=True, text=True, check=True)
    pairs = (line.partition("=") for line in done.stdout.split("\0") if line)
    return {key: value for key, _, value in pairs if key.startswith("OTEL_")}


def sent(vendor: str, agents: Agents, prefix: str = "") -> tuple[HttpCollector, dict[str, dict[str, str]]]:
    """What a job of one node exports, and the headers of each signal."""
    with HttpCollector() as server:
        server._paths = {name: prefix + signal.path for name, signal in SIGNALS.items()}
        said = variables(vendor, f"http://127.0.0.1:{server.port}")
        assert said
        agent = agents.start(by_entry_point(NEWEST.python), *c10d(free_port()), WORKERS / "quick.py", env=said)
        assert agent.wait() == 0, agent.output
        by_path = {prefix + signal.path: name for name, signal in SIGNALS.items()}
        return server, {by_path[path]: headers for path, headers in zip(server.paths, server.headers, strict=True)}


def test_grafana_cloud_gets_basic_authorization(agents: Agents) -> None:
    """An instance and a token, as HTTP's basic authorization, on the paths below /otlp."""
    server, headers = sent("Grafana Cloud", agents, "/otlp")
    assert server.records()
    assert set(headers) == set(SIGNALS)
    for of_signal in headers.values():
        kind, _, code = of_signal["authorization"].partition(" ")
        assert (kind, base64.b64decode(code).decode()) == ("Basic", "123456:glc_secret")


def test_honeycomb_gets_the_team_and_the_metrics_dataset(agents: Agents) -> None:
    """The key with every signal; the dataset with metrics only, where there is no service to name it by."""
    server, headers = sent("Honeycomb", agents)
    assert server.records()
    assert set(headers) == set(SIGNALS)
    assert {of_signal["x-honeycomb-team"] for of_signal in headers.values()} == {"hcaik_secret"}
    datasets = {signal: of_signal.get("x-honeycomb-dataset") for signal, of_signal in headers.items()}
    assert datasets == {"logs": None, "traces": None, "metrics": "torchrun-metrics"}


def test_datadog_gets_the_key_and_deltas_and_no_traces(agents: Agents) -> None:
    """Logs and metrics with the key; it refuses cumulative sums; traces go nowhere where nobody said so."""
    server, headers = sent("Datadog", agents)
    assert server.records()
    assert set(headers) == {"logs", "metrics"}
    assert {of_signal["dd-api-key"] for of_signal in headers.values()} == {"dd_secret"}
    kinds = {
        metric.WhichOneof("data"): getattr(metric, str(metric.WhichOneof("data"))).aggregation_temporality
        for _, metric in server.metrics()
        if metric.WhichOneof("data") != "gauge"
    }
    assert kinds == {"sum": 1, "histogram": 1}, "1 is delta"


@pytest.mark.parametrize("secret", SECRETS.values())
def test_no_key_is_in_the_documents(secret: str) -> None:
    """Keys come from the environment."""
    assert secret not in PAGE
