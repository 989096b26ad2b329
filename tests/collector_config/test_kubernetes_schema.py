"""Every manifest is what a Kubernetes API server would take."""

from __future__ import annotations

import shutil
import subprocess
from copy import deepcopy
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.support.manifests import CONFIG, EXAMPLES, KUBERNETES, KUSTOMIZATION, documents, manifests, pod_templates

# the first one has sidecars (init containers that go on) switched on
VERSIONS = ("1.29.0", "1.34.0", kubernetes_validate.latest_version())

TEXT = {"type": "string"}
COUNT = {"type": "integer", "minimum": 0}
ANY = {"type": "object"}


def closed(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    """An object of these fields and no other."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


# The fields that the example uses, as the operator's definition kubeflow.org_pytorchjobs.yaml has them in v1.8.1 and
# v1.9.0 (github.com/kubeflow/training-operator), and its webhook's rule that one container is called "pytorch".
# Pod templates are checked by Kubernetes' own schema.
PYTORCHJOB = closed(
    ("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "kubeflow.org/v1"},
    kind={"const": "PyTorchJob"},
    metadata=ANY,
    spec=closed(
        ("pytorchReplicaSpecs",),
        nprocPerNode=TEXT,
        elasticPolicy=closed(rdzvBackend=TEXT, rdzvId=TEXT, rdzvPort=COUNT, maxRestarts=COUNT),
        runPolicy=closed(cleanPodPolicy={"enum": ["None", "Running", "All"]}, backoffLimit=COUNT),
        pytorchReplicaSpecs=closed(
            ("Worker",),
            Worker=closed(
                ("template",),
                replicas=COUNT,
                restartPolicy={"enum": ["Always", "OnFailure", "Never", "ExitCode"]},
                template=ANY,
            ),
        ),
    ),
)

# As jobset.x-k8s.io_jobsets.yaml has them in v0.8.1 and v0.12.0 (github.com/kubernetes-sigs/jobset); its Job templates
# are checked by Kubernetes' own schema.
JOBSET = closed(
    ("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "jobset.x-k8s.io/v1alpha2"},
    kind={"const": "JobSet"},
    metadata=ANY,
    spec=closed(
        network=closed(enableDNSHostnames={"type": "boolean"}, subdomain=TEXT),
        failurePolicy=closed(maxRestarts=COUNT),
        replicatedJobs={
            "type": "array",
            "items": closed(("name", "template"), name=TEXT, replicas=COUNT, template=closed(metadata=ANY, spec=ANY)),
        },
    ),
)


def jobs_of(example: dict[str, Any]) -> list[dict[str, Any]]:
    """Kubernetes' own objects that a controller would make of an example."""
    if example["kind"] == "JobSet":
        return [
            {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": each["name"]}, **each["template"]}
            for each in example["spec"]["replicatedJobs"]
        ]
    return [
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": template["spec"]}
        for template in pod_templates(example)
    ]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_manifest_is_valid(version: str) -> None:
    """A field that is misspelt is one that is not there, and the API server says so at the worst time."""
    assert len(manifests()) >= 8
    for document in manifests():
        kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_example_is_valid(path: Path, version: str) -> None:
    """The shell by its controller's definition, what is in it by Kubernetes' own."""
    (example,) = documents(path)
    jsonschema.validate(example, {"PyTorchJob": PYTORCHJOB, "JobSet": JOBSET}[example["kind"]])
    assert jobs_of(example)
    for document in jobs_of(example):
        kubernetes_validate.validate(document, version, strict=True)
    if example["kind"] == "PyTorchJob":
        (template,) = pod_templates(example)
        assert "pytorch" in [container["name"] for container in template["spec"]["containers"]]


def test_a_misspelt_field_is_found() -> None:
    """The checks above can fail, in the shell and in the pod."""
    for path in EXAMPLES.glob("*.yaml"):
        (example,) = documents(path)
        broken = deepcopy(example)
        broken["spec"]["replicas"] = 4
        with pytest.raises(jsonschema.ValidationError, match="replicas"):
            jsonschema.validate(broken, {"PyTorchJob": PYTORCHJOB, "JobSet": JOBSET}[example["kind"]])
        broken = deepcopy(example)
        next(pod_templates(broken))["spec"]["initContainers"][0]["restartpolicy"] = "Always"
        with pytest.raises(kubernetes_validate.ValidationError, match="restartpolicy"):
            kubernetes_validate.validate(jobs_of(broken)[0], VERSIONS[0], strict=True)


def test_the_kustomization_names_every_file_and_copies_none() -> None:
    """A manifest beside it that it does not name is one that nobody applies."""
    named = {CONFIG / name for name in KUSTOMIZATION["resources"]}
    assert named == set(KUBERNETES.glob("*.yaml"))
    files = {file for each in KUSTOMIZATION["configMapGenerator"] for file in each.get("files", ())}
    assert files == {"agent.yaml", "gateway.yaml"}
    # kustomize reads no file above the kustomization.yaml
    assert all((CONFIG / file).resolve().is_relative_to(CONFIG) for file in files)
    assert set(KUSTOMIZATION) == {"apiVersion", "kind", "namespace", "resources", "configMapGenerator"}


@pytest.mark.skipif(
    shutil.which("kubectl") is None, reason="no kubectl on PATH: what it makes of the kustomization was NOT checked"
)
def test_what_kubectl_makes_of_it_is_valid_and_complete() -> None:
    """`kubectl apply -k collector-config` is what the README says; this is all of it but the cluster."""
    done = subprocess.run(["kubectl", "kustomize", str(CONFIG)], capture_output=True, text=True, check=True)
    made = [document for document in yaml.safe_load_all(done.stdout) if document]
    for document in made:
        kubernetes_validate.validate(document, VERSIONS[0], strict=True)
        if document["kind"] != "Namespace":
            assert document["metadata"]["namespace"] == KUSTOMIZATION["namespace"]
    configs = {each["metadata"]["name"]: each["data"] for each in made if each["kind"] == "ConfigMap"}
    for file in ("agent.yaml", "gateway.yaml"):
        assert [data[file] for data in configs.values() if file in data] == [(CONFIG / file).read_text()]
    used = set()
    for document in made:
        for template in pod_templates(document):
            used |= {each["configMap"]["name"] for each in template["spec"]["volumes"] if "configMap" in each}
            for container in template["spec"]["containers"]:
                used |= {source["configMapRef"]["name"] for source in container["envFrom"]}
    # with the hash of their content in the name: a changed configuration rolls out
    assert set(configs) <= used
