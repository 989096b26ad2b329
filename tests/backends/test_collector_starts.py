"""Every configuration of ours, started for real: it validates, starts without a warning, and lets in who may."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
import yaml
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub

from tests.support import collector_tiers as tiers
from tests.support.backends import Collector, Programs, eventually
from tests.support.backends.server import loopback
from tests.support.collector import GrpcCollector, HttpCollector
from tests.support.otlp_senders import send_logs

# What contrib 0.158.0 has of what our configurations use, by the "distributions" of each module's metadata.yaml.
# Contrib itself is too large to be built here: that it takes our files is shown for these names and these modules,
# which are the same code in both distributions, and not by a run of it.
IN_CONTRIB = {
    "receiver": {"otlp": "receiver/otlpreceiver", "kafka": "receiver/kafkareceiver"},
    "processor": {
        "memory_limiter": "processor/memorylimiterprocessor",
        "resource": "processor/resourceprocessor",
        "tail_sampling": "processor/tailsamplingprocessor",
        "transform": "processor/transformprocessor",
    },
    "exporter": {
        "kafka": "exporter/kafkaexporter",
        "load_balancing": "exporter/loadbalancingexporter",
        "otlp_grpc": "exporter/otlpexporter",
        "otlp_http": "exporter/otlphttpexporter",
    },
    "extension": {
        "bearertokenauth": "extension/bearertokenauthextension",
        "file_storage": "extension/storage/filestorage",
        "health_check": "extension/healthcheckextension",
    },
}
VERSION = "v0.158.0"
TIERS = ("agent.yaml", "gateway.yaml", "gateway-kafka.yaml", "consumer.yaml")
NAMES = (*TIERS, "quickstart.yaml")

Make = Callable[[str], Collector]


@pytest.fixture
def make(tmp_path: Path, programs: Programs) -> Iterator[Make]:
    """Makes any of them, with a gateway and a backend behind it that are there, and no Kafka."""
    shared = tiers.Secrets.make(tmp_path / "secrets")
    kafka = SimpleNamespace(brokers=loopback(), username="u", password="p")
    with (
        HttpCollector() as backend,
        GrpcCollector(certificate=shared.certificate) as gateway,
        GrpcCollector() as jaeger,
    ):

        def made(name: str) -> Collector:
            folder = tmp_path / name
            if name == "agent.yaml":
                return tiers.agent(folder, f"127.0.0.1:{gateway.port}", shared)
            if name == "gateway.yaml":
                # its peer is there, as it is where another gateway runs already
                return tiers.gateway(folder, backend, shared, peers=[f"127.0.0.1:{gateway.port}"])
            if name == "gateway-kafka.yaml":
                return tiers.kafka_gateway(folder, kafka, shared)
            if name == "quickstart.yaml":
                return Collector(tiers.CONFIGS / name, folder, env={"TRACES_ENDPOINT": f"127.0.0.1:{jaeger.port}"})
            return tiers.consumer(folder, kafka, backend, shared)

        yield made


@pytest.mark.parametrize("name", NAMES)
def test_it_validates(make: Make, name: str) -> None:
    """A configuration that the Collector refuses helps nobody."""
    made = make(name)
    done = subprocess.run(
        made.validate_command(), env=made.environment(), capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_quickstart_validates_with_loki_in_place_of_victorialogs(make: Make) -> None:
    """Whoever has a Loki merges one small file over the quickstart's; it must fit, and change the logs alone."""
    made = make("quickstart.yaml")
    with_loki = tiers.CONFIGS / "quickstart" / "with-loki.yaml"
    command = [*made.validate_command(), f"--config={with_loki}"]
    done = subprocess.run(command, env=made.environment(), capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert set(yaml.safe_load(with_loki.read_text())["service"]["pipelines"]) == {"logs"}


CUT_SHORT = re.compile(
    r"createTransport failed .*(use of closed network connection|operation was canceled|context canceled)"
)
"""A connection that was still shaking hands when the Collector was told to stop."""


@pytest.mark.parametrize("name", ["agent.yaml", "gateway.yaml", "gateway-kafka.yaml", "quickstart.yaml"])
def test_it_starts_and_stops_without_a_warning(make: Make, name: str) -> None:
    """A deprecated name, an unset variable, a risky default: the Collector says so at its start, and nowhere else.

    consumer.yaml asks for Kafka at its start: test_collector_kafka.py says the same of it.
    """
    with make(name) as started:
        assert started.stop() == 0
        assert [line for line in tiers.trouble(started) if not CUT_SHORT.search(line)] == []


@pytest.mark.parametrize("name", NAMES)
def test_every_signal_has_a_way_and_the_memory_limiter_comes_first(name: str) -> None:
    """A signal without a pipeline is refused, and a limiter behind something else limits too late."""
    config = yaml.safe_load((tiers.CONFIGS / name).read_text())
    pipelines = config["service"]["pipelines"]
    assert {one.partition("/")[0] for one in pipelines} == {"logs", "metrics", "traces"}
    assert {pipeline["processors"][0] for pipeline in pipelines.values()} == {"memory_limiter"}


@pytest.mark.parametrize("name", NAMES)
def test_each_exporter_tries_for_ever_and_keeps_its_queue_on_disk(name: str) -> None:
    """Two defaults lose what waits: an end of trying after 300 s, and a queue in memory, which the quickstart has."""
    config = yaml.safe_load((tiers.CONFIGS / name).read_text())
    for exporter in config["exporters"].values():
        assert exporter["sending_queue"].get("storage") == ("file_storage" if name in TIERS else None)
        assert exporter["sending_queue"]["batch"]
        assert exporter["retry_on_failure"]["max_elapsed_time"] == 0


def inside(config: Any, *names: str) -> list[Any]:
    """All values under a name, wherever it stands, or under names one within the other."""
    if isinstance(config, list):
        return [found for each in config for found in inside(each, *names)]
    if not isinstance(config, dict):
        return []
    first, *rest = names
    here = [config[first]] if first in config else []
    deeper = [found for value in config.values() for found in inside(value, *names)]
    return [found for value in here for found in (inside(value, *rest) if rest else [value])] + deeper


@pytest.mark.parametrize("name", TIERS)
def test_the_file_storage_gives_the_disk_back_and_survives_some_damage(name: str) -> None:
    """A node's is written with fsync and others' without, as each file says; no tier has a bound of its own there."""
    storage = load(name)["extensions"]["file_storage"]
    assert storage["fsync"] is (name == "agent.yaml")
    assert storage["recreate"] is True
    assert storage["compaction"]["on_rebound"] is True
    assert storage["compaction"]["directory"] == storage["directory"]
    assert "max_size" not in storage


def test_kafka_says_yes_when_all_in_sync_replicas_have_it() -> None:
    """One broker of these tests cannot show it: the default, 1, is content with the leader alone."""
    producer = load("gateway-kafka.yaml")["exporters"]["kafka"]["producer"]
    assert (producer["required_acks"], producer["allow_auto_topic_creation"]) == (-1, False)


@pytest.mark.parametrize("name", ["gateway.yaml", "gateway-kafka.yaml"])
def test_who_listens_for_others_asks_for_tls_1_3_and_a_token(name: str) -> None:
    """Each door that is not of loopback."""
    doors = list(load(name)["receivers"].values())
    assert inside(doors, "tls", "min_version") == ["1.3"] * len(doors)
    assert inside(doors, "auth", "authenticator") == ["bearertokenauth/server"] * len(doors)


@pytest.mark.parametrize("name", ["gateway.yaml", "gateway-kafka.yaml"])
def test_agents_find_a_gateway_that_is_new(name: str) -> None:
    """A connection that lasts for ever leads to those that were there when it began."""
    (door,) = (value for key, value in load(name)["receivers"].items() if key == "otlp/nodes")
    assert inside(door, "server_parameters", "max_connection_age") == ["5m"]


@pytest.mark.parametrize(
    ("client", "server"), [("agent.yaml", "gateway.yaml"), ("agent.yaml", "gateway-kafka.yaml"), ("gateway.yaml",) * 2]
)
def test_nobody_asks_whether_somebody_is_there_more_often_than_is_allowed(client: str, server: str) -> None:
    """Who does is hung up on (too_many_pings), by a server that allows each five minutes where nothing is said."""
    asking = inside(load(client)["exporters"], "keepalive")
    allowed = [door.get("keepalive", {}).get("enforcement_policy") for door in doors_of(server)]
    assert asking
    assert all(allowed)
    for client_says in asking:
        for server_says in allowed:
            assert seconds(client_says["time"]) > seconds(server_says["min_time"])
            assert client_says["permit_without_stream"] is server_says["permit_without_stream"] is True


def doors_of(name: str) -> list[dict[str, Any]]:
    """What its OTLP receivers say of gRPC."""
    return [receiver["protocols"]["grpc"] for receiver in load(name)["receivers"].values()]


def seconds(said: str) -> int:
    """Of ``30s``."""
    return int(said.removesuffix("s"))


def load(name: str) -> dict[str, Any]:
    """A configuration as data."""
    return dict(yaml.safe_load((tiers.CONFIGS / name).read_text()))


@pytest.mark.parametrize("name", NAMES)
def test_no_secret_stands_in_a_file(name: str) -> None:
    """Tokens and passwords come from the environment alone."""
    config = load(name)
    secret = [value for word in ("token", "password") for value in inside(config, word)]
    secret += [value for values in inside(config, "tokens") for value in values]
    assert all(value.startswith("${env:") for value in secret)
    assert secret or name == "quickstart.yaml"


@pytest.mark.parametrize("name", NAMES)
def test_contrib_has_every_component_of_it(name: str, programs: Programs) -> None:
    """A configuration of ours runs on the contrib distribution, too: same names, same modules, same version."""
    config = yaml.safe_load((tiers.CONFIGS / name).read_text())
    said = subprocess.run([str(programs.collector), "components"], capture_output=True, text=True, check=True).stdout
    ours = {
        (kind, component["name"]): component["module"]
        for kind in IN_CONTRIB
        for component in yaml.safe_load(said)[f"{kind}s"]
    }
    for kind, known in IN_CONTRIB.items():
        for used in config.get(f"{kind}s") or {}:
            component = used.partition("/")[0]
            module, _, version = ours[kind, component].partition(" ")
            assert module.endswith(known[component])
            assert version == VERSION


def send(address: str, certificate: Path | None, token: str | None) -> grpc.StatusCode:
    """What is answered to an empty request of spans; no certificate: without TLS."""
    channel = (
        grpc.insecure_channel(address)
        if certificate is None
        else grpc.secure_channel(address, grpc.ssl_channel_credentials(certificate.read_bytes()))
    )
    with channel:
        metadata = [] if token is None else [("authorization", f"Bearer {token}")]
        try:
            TraceServiceStub(channel).Export(ExportTraceServiceRequest(), timeout=10, metadata=metadata)
        except grpc.RpcError as error:
            return error.code()  # type: ignore[no-any-return,attr-defined]
    return grpc.StatusCode.OK


@pytest.mark.parametrize("name", ["gateway.yaml", "gateway-kafka.yaml"])
def test_a_gateway_lets_in_who_has_the_token_by_tls_and_nobody_else(make: Make, name: str) -> None:
    """Where nodes meet the gateway is the one door that others can reach."""
    made = make(name)
    token, certificate = made.env["GATEWAY_TOKEN"], Path(made.env["TLS_CERT_FILE"])
    made.env["GATEWAY_TOKEN_BEFORE"] = "the-one-before"
    with made:
        for door in made.receivers.values():
            assert send(door, certificate, token) is grpc.StatusCode.OK
            assert send(door, certificate, "the-one-before") is grpc.StatusCode.OK
            assert send(door, certificate, token + "x") is grpc.StatusCode.UNAUTHENTICATED
            assert send(door, certificate, "") is grpc.StatusCode.UNAUTHENTICATED
            assert send(door, certificate, None) is grpc.StatusCode.UNAUTHENTICATED
            assert send(door, None, token) is grpc.StatusCode.UNAVAILABLE


def test_without_a_token_before_the_token_alone_opens(make: Make) -> None:
    """The default of the second token must be no third one, and least of all an empty one."""
    made = make("gateway.yaml")
    with made:
        door, certificate = tiers.nodes_of(made), Path(made.env["TLS_CERT_FILE"])
        assert send(door, certificate, made.env["GATEWAY_TOKEN"]) is grpc.StatusCode.OK
        assert send(door, certificate, "${env:GATEWAY_TOKEN}") is grpc.StatusCode.UNAUTHENTICATED
        assert send(door, certificate, "") is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("name", TIERS)
def test_without_its_environment_it_does_not_start(make: Make, name: str) -> None:
    """A gateway without a token would be open to all, an agent without a gateway would gather for nobody."""
    made = make(name)
    for variable in ("GATEWAY_TOKEN", "KAFKA_PASSWORD"):
        made.env.pop(variable, None)
    done = subprocess.run(
        made.command(), env=made.environment(), capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1


def test_an_agent_with_a_wrong_token_says_so(tmp_path: Path, programs: Programs) -> None:
    """What is refused for its token is lost: it must be seen in the log, and counted."""
    shared = tiers.Secrets.make(tmp_path / "secrets")
    with HttpCollector() as backend, tiers.gateway(tmp_path / "gateway", backend, shared) as gate:
        wrong = tiers.Secrets(shared.certificate, token="wrong")
        with tiers.agent(tmp_path / "agent", tiers.nodes_of(gate), wrong) as node:
            send_logs(node.otlp_grpc, ["one", "two"])
            eventually(lambda: node.metrics()["otelcol_exporter_send_failed_log_records"] == 2)
            eventually(lambda: any("Unauthenticated" in line for line in tiers.trouble(node)))
        assert backend.uids() == []
