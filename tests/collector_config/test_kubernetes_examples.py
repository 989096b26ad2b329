"""The examples of training jobs: what the agent keeps is delivered, and the command lines are torchrun's and ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.manifests import EXAMPLES, documents, manifest, pod_templates, size
from torchelastic_otel.cli import make_parser
from torchelastic_otel.model.job_environment import JOB_ATTRIBUTES
from torchelastic_otel.settings import SETTINGS

OF_THE_POD = {"NODE_IP"}
"""Used by another variable alone."""


class Example:
    """One example: its pod, the training container and the sidecar."""

    def __init__(self, path: Path) -> None:
        (self.document,) = documents(path)
        (template,) = pod_templates(self.document)
        self.pod: dict[str, Any] = template["spec"]
        (self.trainer,) = self.pod["containers"]
        (self.sidecar,) = self.pod["initContainers"]


@pytest.fixture(params=sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def example(request: pytest.FixtureRequest) -> Example:
    """Each of the examples."""
    return Example(request.param)


def test_the_sidecar_delivers_what_the_trainer_keeps(example: Example) -> None:
    """The same spool on the same volume, as the same user, to the same place."""
    assert example.sidecar["env"] == example.trainer["env"]
    (mount,) = example.sidecar["volumeMounts"]
    assert mount in example.trainer["volumeMounts"]
    given = {each["name"]: each.get("value") for each in example.trainer["env"]}
    assert given["TORCHELASTIC_OTEL_SPOOL_DIR"] == mount["mountPath"]
    assert mount["name"] in [volume["name"] for volume in example.pod["volumes"]]
    assert example.pod["securityContext"]["runAsUser"] > 0
    for container in (example.trainer, example.sidecar):
        assert "securityContext" not in container


def test_the_trainer_has_shared_memory(example: Example) -> None:
    """A container's own /dev/shm is of 64 MiB, which NCCL and data loaders of eight GPUs outgrow."""
    (mount,) = (each for each in example.trainer["volumeMounts"] if each["mountPath"] == "/dev/shm")
    (volume,) = (each for each in example.pod["volumes"] if each["name"] == mount["name"])
    assert volume["emptyDir"]["medium"] == "Memory"
    assert size(volume["emptyDir"]["sizeLimit"]) >= 2**30
    # in memory, and the sidecar's limit is small
    assert mount not in example.sidecar["volumeMounts"]


def test_the_namespace_may_be_of_pod_security_level_baseline(example: Example) -> None:
    """What the level forbids, of what a pod of ours could have: https://kubernetes.io/docs/concepts/security/pod-security-standards/."""
    assert not [name for name in ("hostNetwork", "hostPID", "hostIPC") if example.pod.get(name)]
    assert {kind for volume in example.pod["volumes"] for kind in volume} == {"name", "emptyDir"}
    for container in (example.trainer, example.sidecar):
        assert not [port for port in container.get("ports", ()) if "hostPort" in port]
        assert "securityContext" not in container


def test_the_jobs_name_is_the_jobs() -> None:
    """The label is the Job controller's, on each of its pods since Kubernetes 1.27; a PyTorchJob has no Job."""
    given = {each["name"]: each for each in Example(EXAMPLES / "jobset.yaml").trainer["env"]}
    path = given["K8S_JOB_NAME"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert path == "metadata.labels['batch.kubernetes.io/job-name']"
    assert "K8S_JOB_NAME" not in {each["name"] for each in Example(EXAMPLES / "pytorchjob.yaml").trainer["env"]}


def test_the_sidecar_does_not_keep_the_job_from_ending(example: Example) -> None:
    """As an ordinary container it would: it watches until it is told to stop."""
    assert example.sidecar["restartPolicy"] == "Always"
    assert "--watch" in example.sidecar["command"]


def test_the_sidecars_last_try_fits_into_the_pods_grace(example: Example) -> None:
    """The kubelet kills at its end: the agent's own exit comes first, then the sidecar's."""
    program, *arguments = example.sidecar["command"]
    assert program == "torchelastic-otel"
    parsed = make_parser().parse_args(arguments)
    agents_exit_s = 30  # torchrun waits so long for its workers to stop
    assert parsed.timeout + agents_exit_s <= example.pod["terminationGracePeriodSeconds"]


def test_every_variable_means_something(example: Example) -> None:
    """OpenTelemetry's, ours, or one that becomes a resource attribute; a name that nobody reads helps nobody."""
    ours = {setting.variable for setting in SETTINGS}
    seen: set[str] = set()
    for each in example.trainer["env"]:
        name = each["name"]
        assert name in ours | set(JOB_ATTRIBUTES) | OF_THE_POD or name.startswith("OTEL_EXPORTER_OTLP_")
        # Kubernetes fills in $(NAME) of what stands before it alone
        for other in OF_THE_POD:
            assert f"$({other})" not in each.get("value", "") or other in seen
        seen.add(name)
    attributes = {JOB_ATTRIBUTES[name] for name in seen & set(JOB_ATTRIBUTES)}
    assert attributes >= {"k8s.pod.name", "k8s.namespace.name", "k8s.node.name", "k8s.pod.uid"}


def test_the_endpoint_is_the_agent_of_the_pods_node(example: Example) -> None:
    """By the node's address: no hop to another node, and no connection for each pod at the gateway."""
    given = {each["name"]: each for each in example.trainer["env"]}
    assert given["NODE_IP"]["valueFrom"]["fieldRef"]["fieldPath"] == "status.hostIP"
    (template,) = pod_templates(manifest("DaemonSet", "otel-agent"))
    (port,) = (each["hostPort"] for each in template["spec"]["containers"][0]["ports"] if each["name"] == "otlp-grpc")
    assert given["OTEL_EXPORTER_OTLP_ENDPOINT"]["value"] == f"http://$(NODE_IP):{port}"


@pytest.mark.torch
def test_torchrun_takes_the_pytorchjobs_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the variables that the operator sets (pkg/controller.v1/pytorch/elastic.go of v1.9.0)."""
    from torch.distributed.run import config_from_args, get_args_parser

    example = Example(EXAMPLES / "pytorchjob.yaml")
    spec = example.document["spec"]
    workers, name = spec["pytorchReplicaSpecs"]["Worker"], example.document["metadata"]["name"]
    for variable, value in {
        "NPROC_PER_NODE": spec["nprocPerNode"],
        "RDZV_ENDPOINT": f"{name}-worker-0:23456",
        "RDZV_BACKEND": spec["elasticPolicy"]["rdzvBackend"],
        "NNODES": str(workers["replicas"]),
        "MAX_RESTARTS": str(spec["elasticPolicy"]["maxRestarts"]),
        "RDZV_ID": spec["elasticPolicy"]["rdzvId"],
    }.items():
        monkeypatch.setenv(f"PET_{variable}", value)
    program, *arguments = example.trainer["command"]
    assert program == "torchrun"
    config, _, script = config_from_args(get_args_parser().parse_args(arguments))
    assert (config.min_nodes, config.max_nodes, config.nproc_per_node) == (4, 4, 8)
    assert (config.run_id, config.rdzv_backend, config.max_restarts) == (name, "c10d", 3)
    assert script == ["-u", "train.py"]
    assert str(config.nproc_per_node) == example.trainer["resources"]["limits"]["nvidia.com/gpu"]
    # one worker's success is the job's to the operator: the others' sidecars must not be deleted for it
    assert spec["runPolicy"]["cleanPodPolicy"] == "None"
    assert workers["restartPolicy"] == "OnFailure"


@pytest.mark.torch
def test_torchrun_takes_the_jobsets_command() -> None:
    """As many nodes as pods, as many workers as GPUs, and the store on the first pod, by the name it gets."""
    from torch.distributed.run import config_from_args, get_args_parser

    example = Example(EXAMPLES / "jobset.yaml")
    name, spec = example.document["metadata"]["name"], example.document["spec"]
    (job,) = spec["replicatedJobs"]
    program, *arguments = example.trainer["command"]
    assert program == "torchrun"
    config, _, script = config_from_args(get_args_parser().parse_args(arguments))
    assert script == ["-u", "train.py"]
    nodes = job["template"]["spec"]["parallelism"]
    assert (config.min_nodes, config.max_nodes) == (nodes, nodes)
    assert job["template"]["spec"]["completions"] == nodes
    assert job["template"]["spec"]["completionMode"] == "Indexed"
    assert str(config.nproc_per_node) == example.trainer["resources"]["limits"]["nvidia.com/gpu"]
    (port,) = (each["containerPort"] for each in example.trainer["ports"])
    assert spec["network"]["enableDNSHostnames"] is True
    assert config.rdzv_endpoint == f"{name}-{job['name']}-0-0.{spec['network']['subdomain']}:{port}"
    assert (config.rdzv_backend, config.run_id) == ("c10d", name)
