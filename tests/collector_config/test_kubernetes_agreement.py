"""What the manifests, the Collectors' configurations and the README call the same thing is the same thing."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import PurePosixPath
from typing import Any

import pytest

from tests.support.manifests import (
    CONFIG,
    KUBERNETES,
    KUSTOMIZATION,
    container_environment,
    documents,
    literals,
    manifest,
    manifests,
    pod_templates,
    queues,
    resolved,
    shell_blocks,
    size,
    tries_s,
    variables,
)

WORKLOADS = {"agent": ("DaemonSet", "otel-agent"), "gateway": ("StatefulSet", "otel-gateway")}
NOT_THE_COLLECTORS = {"GOMEMLIMIT"}
"""Read by Go's runtime, and by no configuration."""


class Workload:
    """One workload and the configuration that it runs, with its environment filled in."""

    def __init__(self, which: str) -> None:
        self.manifest = manifest(*WORKLOADS[which])
        self.file = f"{which}.yaml"
        (self.template,) = pod_templates(self.manifest)
        (self.container,) = self.template["spec"]["containers"]
        self.environment = container_environment(self.container)
        (self.raw,) = documents(CONFIG / self.file)
        self.config = resolved(self.raw, self.environment)
        self.ports = {port["name"]: port["containerPort"] for port in self.container["ports"]}
        self.mounts = {mount["mountPath"]: mount["name"] for mount in self.container["volumeMounts"]}

    def volume(self, name: str) -> dict[str, Any]:
        """A volume of the pod, or the claim of that name."""
        claims = self.manifest["spec"].get("volumeClaimTemplates", ())
        named = {each["metadata"]["name"]: {"claim": each["spec"]} for each in claims}
        named |= {each["name"]: each for each in self.template["spec"]["volumes"]}
        return named[name]

    def volume_of(self, path: str) -> dict[str, Any]:
        """The volume that a path of the container is on."""
        (found,) = (name for mount, name in self.mounts.items() if PurePosixPath(path).is_relative_to(mount))
        return self.volume(found)


@pytest.fixture(params=list(WORKLOADS))
def workload(request: pytest.FixtureRequest) -> Workload:
    """The agent, and the gateway."""
    return Workload(request.param)


def created_by_hand() -> dict[tuple[str, str], set[str]]:
    """(kind, name) of what the README has one create, and its keys."""
    keys_of_tls = {"tls.crt", "tls.key"}
    found: dict[tuple[str, str], set[str]] = {}
    for line in shell_blocks(KUBERNETES / "README.md").splitlines():
        words = shlex.split(line, comments=True)
        if "create" not in words or words[0] != "kubectl":
            continue
        _, *rest = words[words.index("create") :]
        kind = rest.pop(0)
        shape = rest.pop(0) if kind == "secret" else "generic"
        keys = {re.split("[=]", word)[1] for word in rest if word.startswith(("--from-file=", "--from-literal="))}
        found[kind, rest[0]] = keys_of_tls if shape == "tls" else keys
    return found


def test_every_variable_without_a_default_is_given(workload: Workload) -> None:
    """A Collector whose variable is empty starts, and sends nowhere."""
    needed, every = variables(workload.raw)
    assert needed
    assert needed <= set(workload.environment)
    own = {each["name"] for each in workload.container["env"]}
    assert own - NOT_THE_COLLECTORS <= every, "given, and read by nothing"


def test_the_site_is_told_nothing_that_nobody_reads() -> None:
    """A name that was changed in the configurations must not live on where users change values."""
    read = set().union(*(variables(Workload(which).raw)[1] for which in WORKLOADS))
    assert set(literals("otel-site")) <= read


def test_the_configuration_that_is_started_is_the_one_that_is_mounted(workload: Workload) -> None:
    """The path in the arguments is a file of the generated ConfigMap."""
    (argument,) = workload.container["args"]
    path = PurePosixPath(argument.removeprefix("--config="))
    assert path.name == workload.file
    name = workload.volume_of(str(path))["configMap"]["name"]
    assert {"name": name, "files": [workload.file]} in KUSTOMIZATION["configMapGenerator"]


def test_every_config_map_and_secret_is_there_with_its_keys(workload: Workload) -> None:
    """Generated, or created by a command of the README: a pod that misses one waits for ever."""
    by_hand = created_by_hand()
    generated = {each["name"] for each in KUSTOMIZATION["configMapGenerator"]}
    for source in workload.container["envFrom"]:
        assert source["configMapRef"]["name"] in generated
    for each in workload.container["env"]:
        if wanted := each.get("valueFrom", {}).get("secretKeyRef"):
            assert ("secret", wanted["name"]) in by_hand
            assert wanted.get("optional") or wanted["key"] in by_hand["secret", wanted["name"]]
    for volume in workload.template["spec"]["volumes"]:
        if "configMap" in volume and volume["configMap"]["name"] not in generated:
            assert ("configmap", volume["configMap"]["name"]) in by_hand
        if "secret" in volume:
            assert ("secret", volume["secret"]["secretName"]) in by_hand


def test_certificates_are_files_of_what_is_mounted(workload: Workload) -> None:
    """A path that leads nowhere is a Collector that does not start."""
    by_hand = created_by_hand()
    paths = set(re.findall(r'"(?:ca|cert|key)_file": "([^"]+)"', json.dumps(workload.config)))
    assert paths
    for path in paths:
        volume = workload.volume_of(path)
        if "configMap" in volume:
            keys = by_hand["configmap", volume["configMap"]["name"]]
        else:
            keys = by_hand["secret", volume["secret"]["secretName"]]
        assert PurePosixPath(path).name in keys


def test_every_port_that_the_configuration_opens_is_declared(workload: Workload) -> None:
    """Health for the kubelet, numbers for Prometheus, OTLP for everyone, all on the pod's own address."""
    config = workload.config
    endpoints = {
        f"{receiver}/{protocol}": settings["endpoint"]
        for receiver, body in config["receivers"].items()
        for protocol, settings in body["protocols"].items()
    }
    endpoints["health"] = config["extensions"]["health_check"]["endpoint"]
    (reader,) = config["service"]["telemetry"]["metrics"]["readers"]
    numbers = reader["pull"]["exporter"]["prometheus"]
    endpoints["metrics"] = f"{numbers['host']}:{numbers['port']}"
    assert {endpoint.rpartition(":")[0] for endpoint in endpoints.values()} == {"0.0.0.0"}
    assert {int(endpoint.rpartition(":")[2]) for endpoint in endpoints.values()} == set(workload.ports.values())
    assert endpoints["health"].endswith(f":{workload.ports['health']}")
    assert endpoints["metrics"].endswith(f":{workload.ports['metrics']}")
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert workload.container[probe]["httpGet"] == {"path": "/", "port": "health"}


def test_prometheus_is_told_where_the_numbers_are(workload: Workload) -> None:
    """A Prometheus that goes by annotations asks a pod that has them, on this port, and no other pod."""
    told = workload.template["metadata"]["annotations"]
    assert told == {"prometheus.io/scrape": "true", "prometheus.io/port": str(workload.ports["metrics"])}


def test_a_stop_waits_for_the_last_tries(workload: Workload) -> None:
    """What is killed in the middle of one sends it again; where all hangs, a stop takes as long as this."""
    assert tries_s(workload.config) < workload.template["spec"]["terminationGracePeriodSeconds"]


def test_the_queue_is_on_a_disk_that_outlives_the_pod_and_holds_it(workload: Workload) -> None:
    """The promise is that what was accepted is delivered; an emptyDir would break it at every rollout."""
    volume = workload.volume_of(workload.config["extensions"]["file_storage"]["directory"])
    if "claim" in volume:
        room = size(volume["claim"]["resources"]["requests"]["storage"])
        # a quarter more: compaction writes a new file beside the old one, and bbolt's pages are not full
        assert sum(queues(workload.config)) * 1.25 <= room
        assert volume["claim"]["accessModes"] == ["ReadWriteOnce"]
    else:
        assert volume["hostPath"]["type"] == "DirectoryOrCreate"
        # fsGroup does not reach a hostPath, and only root may write in one that kubelet made
        assert workload.container["securityContext"]["runAsUser"] == 0
    assert len(queues(workload.config)) >= 3


def test_the_limiter_refuses_before_the_kernel_kills(workload: Workload) -> None:
    """What is refused waits with its sender; what is in a killed process's memory is gone."""
    limit = size(workload.container["resources"]["limits"]["memory"])
    limiter = workload.config["processors"]["memory_limiter"]
    if "limit_mib" in limiter:
        assert int(limiter["limit_mib"]) * 2**20 <= 0.8 * limit
    else:
        assert int(limiter["limit_percentage"]) <= 80
    assert 0.5 * limit <= size(workload.environment["GOMEMLIMIT"]) <= 0.8 * limit
    assert size(workload.container["resources"]["requests"]["memory"]) <= limit


def test_no_container_has_more_rights_than_it_uses(workload: Workload) -> None:
    """What is reached from every pod of the cluster is worth attacking."""
    context = workload.container["securityContext"]
    assert context["allowPrivilegeEscalation"] is False
    assert context["readOnlyRootFilesystem"] is True
    assert context["capabilities"] == {"drop": ["ALL"]}
    writable = [name for name in workload.mounts.values() if name == "queue"]
    read_only = [mount["name"] for mount in workload.container["volumeMounts"] if mount.get("readOnly")]
    assert sorted(writable + read_only) == sorted(workload.mounts.values())
    spec = workload.template["spec"]
    assert not any(spec.get(name) for name in ("hostNetwork", "hostPID", "hostIPC"))


def test_nobody_has_a_role_since_nothing_asks_the_api(workload: Workload) -> None:
    """A component that does ask (k8s_attributes, a k8s resolver) needs one, and must not come in unseen."""
    kinds = [
        name.partition("/")[0] for part in ("receivers", "processors", "extensions") for name in workload.raw[part]
    ]
    assert not [kind for kind in kinds if kind.startswith("k8s") or kind in ("kubeletstats", "resource_detection")]
    assert not [each for each in workload.raw["exporters"].values() if "k8s" in each.get("resolver", {})]
    assert not [each for each in manifests() if "Role" in each["kind"]]
    account = manifest("ServiceAccount", workload.template["spec"]["serviceAccountName"])
    assert account["automountServiceAccountToken"] is False
    assert workload.template["spec"]["automountServiceAccountToken"] is False


def test_labels_select_what_they_are_meant_to(workload: Workload) -> None:
    """A selector that fits nothing is a Service without an address."""
    labels = workload.template["metadata"]["labels"]
    assert workload.manifest["spec"]["selector"]["matchLabels"].items() <= labels.items()
    for constraint in workload.template["spec"].get("topologySpreadConstraints", ()):
        assert constraint["labelSelector"]["matchLabels"].items() <= labels.items()


def test_the_gateways_services_lead_to_it() -> None:
    """The agents' address, and the peers' addresses of which a trace's id chooses one."""
    agent, gateway = Workload("agent"), Workload("gateway")
    labels = gateway.template["metadata"]["labels"]
    services = {each["metadata"]["name"]: each["spec"] for each in manifests() if each["kind"] == "Service"}
    for service in services.values():
        assert service["selector"].items() <= labels.items()
        for port in service["ports"]:
            assert port["port"] == gateway.ports[port["targetPort"]]
    (budget,) = (each for each in manifests() if each["kind"] == "PodDisruptionBudget")
    assert budget["spec"]["selector"]["matchLabels"].items() <= labels.items()
    # both broken, and no node could be drained
    assert budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"

    host, _, port = agent.environment["GATEWAY_ENDPOINT"].partition(":")
    assert int(port) in [each["port"] for each in services[host]["ports"]]
    assert services[host].get("clusterIP") != "None"
    assert gateway.config["receivers"]["otlp/nodes"]["protocols"]["grpc"]["endpoint"].endswith(f":{port}")

    peers = gateway.config["exporters"]["load_balancing"]["resolver"]["dns"]
    assert peers["hostname"] == gateway.manifest["spec"]["serviceName"]
    # a headless service changes no port: the container's is the one that is called
    assert services[peers["hostname"]]["clusterIP"] == "None"
    assert int(peers["port"]) == gateway.ports["otlp-peers"]
    assert gateway.config["receivers"]["otlp/peers"]["protocols"]["grpc"]["endpoint"].endswith(f":{peers['port']}")
    # one certificate for both ways
    name = gateway.config["exporters"]["load_balancing"]["protocol"]["otlp"]["tls"]["server_name_override"]
    assert name == host
    assert f"DNS:{host}" in shell_blocks(KUBERNETES / "README.md")


def test_no_service_says_clear_text_of_what_is_tls() -> None:
    """A mesh goes by appProtocol, else by a port's name up to the hyphen, and would take it for HTTP/2."""
    receivers = Workload("gateway").config["receivers"].values()
    grpc = [receiver["protocols"]["grpc"] for receiver in receivers]
    tls = {int(each["endpoint"].rpartition(":")[2]) for each in grpc if "tls" in each}
    ports = [port for each in manifests() if each["kind"] == "Service" for port in each["spec"]["ports"]]
    assert {port["port"] for port in ports} == tls
    for port in ports:
        assert "appProtocol" not in port
        assert port["name"].partition("-")[0] not in ("grpc", "http", "http2")


def test_a_trace_goes_to_no_gateway_that_is_not_ready() -> None:
    """A headless Service names those alone that are ready, unless it is told otherwise; who is alone is ready, too."""
    gateway = Workload("gateway")
    peers = manifest("Service", gateway.manifest["spec"]["serviceName"])
    assert not peers["spec"].get("publishNotReadyAddresses")


def test_a_pod_of_the_node_finds_the_agent() -> None:
    """The examples send to the node's address; the agent has to be on it."""
    agent = Workload("agent")
    for port in agent.container["ports"]:
        if port["name"].startswith("otlp"):
            assert port["hostPort"] == port["containerPort"]
        else:
            assert "hostPort" not in port
    assert agent.template["spec"]["tolerations"] == [{"operator": "Exists"}]


def test_both_run_the_same_collector() -> None:
    """One version: that of the distribution's manifest."""
    images = {Workload(which).container["image"] for which in WORKLOADS}
    (image,) = images
    (distribution,) = documents(CONFIG / "distribution" / "manifest.yaml")
    assert image.rpartition(":")[2] == distribution["dist"]["version"]
