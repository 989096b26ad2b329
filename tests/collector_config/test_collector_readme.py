"""The settings in collector-config/README.md are those of the Collectors' files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

CONFIGS = Path(__file__).resolve().parents[2] / "collector-config"
README = (CONFIGS / "README.md").read_text()
FILES = ("agent", "gateway", "gateway-kafka", "consumer")
KINDS = {"all": FILES, "gateways": ("gateway", "gateway-kafka")}
_ROW = re.compile(r"^\| `(\w+)` \|\s*([^|]*?)\s*\|\s*([^|]*?)\s*\| .+ \|$", re.MULTILINE)
_USE = re.compile(r"\$\{env:(\w+)(?::-((?:[^{}]|\{[^{}]*\})*))?\}")


def documented() -> dict[tuple[str, str], str]:
    """The default of each variable in each file that the table names; an empty one where it must be set."""
    found = {}
    for variable, default, where in _ROW.findall(README):
        for file in (file for word in where.split(", ") for file in KINDS.get(word, (word,))):
            found[file, variable] = default.strip("`")
            for value, words in re.findall(r"`([^`]+)` ((?:\w+)(?: and \w+)*)", default):
                if any(file in KINDS.get(word, (word,)) for word in words.split(" and ")):
                    found[file, variable] = value
    return found


def used() -> dict[tuple[str, str], str]:
    """The same, of the files."""
    return {
        (file, variable): default
        for file in FILES
        for line in (CONFIGS / f"{file}.yaml").read_text().splitlines()
        if not line.strip().startswith("#")
        for variable, default in _USE.findall(line)
    }


def test_every_variable_is_in_the_table_with_its_default() -> None:
    """A variable that no file reads, or a required one that is missing here, would show in production only."""
    assert documented() == used()


@pytest.mark.parametrize("file", FILES)
def test_the_head_of_each_file_names_its_variables(file: str) -> None:
    """A reader of the file sees what it needs."""
    head = (CONFIGS / f"{file}.yaml").read_text().partition("\n\n")[0]
    named = set(re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b", head))
    assert named == {variable for name, variable in used() if name == file}


def test_the_table_of_losses_names_tests_that_are_there() -> None:
    """A line of the table without a test behind it is a guess."""
    section = README.partition("## What is lost when")[2].partition("\n## ")[0]
    named = set(re.findall(r"`(test_\w+\.py)`", section)) | {"test_collector_loss.py"}
    assert len(named) == 6
    assert [name for name in named if not (CONFIGS.parent / "tests" / "backends" / name).is_file()] == []


def config(file: str) -> dict[str, Any]:
    """A configuration as data."""
    return dict(yaml.safe_load((CONFIGS / f"{file}.yaml").read_text()))


@pytest.mark.parametrize("file", FILES)
def test_the_disk_space_is_computed_for_the_actual_number_of_queues(file: str) -> None:
    """Each exporter has one for each signal: three, and the spans of a gateway wait a second time for its peers."""
    pipelines = config(file)["service"]["pipelines"]
    queues = {(name.partition("/")[0], exporter) for name, one in pipelines.items() for exporter in one["exporters"]}
    assert len(queues) == (4 if file == "gateway" else 3)
    (row,) = re.findall(r"^\| `QUEUE_MAX_BYTES` .*$", README, re.MULTILINE)
    assert "up to three times that" in row
    ((sent, kept),) = re.findall(r"\| (\d+) B of OTLP, (\d+) B on the disk where it waits", README)
    assert f"{int(kept) / int(sent):.1f} times with a hundred records per request" in row
    assert "Each Collector has three queues, a gateway of `gateway.yaml` four" in row


@pytest.mark.parametrize("file", FILES)
def test_requests_are_rejected_from_the_documented_amount_of_memory(file: str) -> None:
    """The limiter rejects at the limit minus the spike, not at the limit."""
    limiter = config(file)["processors"]["memory_limiter"]
    (row,) = re.findall(r"^\| `MEMORY_LIMIT_MIB` .*$", README, re.MULTILINE)
    if file == "agent":
        assert f"{limiter['spike_limit_mib']} MiB below it, the Collector starts to reject requests" in row
    else:
        limit, spike = limiter["limit_percentage"], limiter["spike_limit_percentage"]
        assert f"at {limit - spike} % of" in row
        assert f"(a limit of {limit} % minus {spike} %)" in row


@pytest.mark.parametrize("file", ["gateway", "consumer"])
def test_the_ceiling_of_metrics_is_one_request_at_a_time(file: str) -> None:
    """Sizing names it, and its size."""
    for each in (config("agent")["exporters"]["otlp_grpc/gateway"], config(file)["exporters"]["otlp_http/metrics"]):
        queue = each["sending_queue"]
        assert (queue["num_consumers"], queue["batch"]["max_size"]) == (1, 2 * 1024 * 1024)
    sizing = README.partition("## Sizing")[2].partition("\n## ")[0]
    assert "`num_consumers: 1`" in sizing
    assert "at most 2 MiB" in sizing
    (hourly,) = re.findall(r"^\| 10,000 \| [^|]+ \| ([\d.]+) GB \|", sizing, re.MULTILINE)
    per_s = float(hourly) / 3600 * 1000
    assert f"{per_s:.1f} MB a second, need an answer within a second" in sizing
    assert per_s / 2 <= 2 * 1024 * 1024 / 1e6, "two of them"


def test_the_documented_configuration_of_prometheus_is_the_quickstarts() -> None:
    """The block that users copy into their Prometheus is what the tests run."""
    (text,) = re.findall(r"## Watch the Collectors\n.*?```yaml\n(.*?)```", README, re.DOTALL)
    told, quickstart = yaml.safe_load(text), yaml.safe_load((CONFIGS / "quickstart" / "prometheus.yaml").read_text())
    assert (told["otlp"], told["storage"]) == (quickstart["otlp"], quickstart["storage"])
    assert [job["job_name"] for job in told["scrape_configs"]] == ["otelcol"]
    assert [f"../{files}" for files in told["rule_files"]] == quickstart["rule_files"]


def test_sizing_has_been_measured() -> None:
    """benchmarks/collector.py writes it; an empty section would go unnoticed."""
    part = README.partition("<!-- sizing: begin -->")[2].partition("<!-- sizing: end -->")[0]
    assert "| 10,000 |" in part
    assert "Extrapolated" in part
