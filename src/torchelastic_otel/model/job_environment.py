"""The environment variables that identify the job of a process.

They are stored in the origin, because another process may export the events, on another day, with another environment.
They are not beside OpenTelemetry's resource, because the ingest path must not import that.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final
from urllib.parse import unquote

from torchelastic_otel.semconv import HOST_NAME

JOB_ATTRIBUTES: Final[Mapping[str, str]] = MappingProxyType(
    {
        # Kubernetes: what a pod's manifest usually calls the fields it takes from the downward API. Of two names
        # for one attribute the later one wins.
        "NODE_NAME": "k8s.node.name",
        "K8S_NODE_NAME": "k8s.node.name",
        "POD_NAME": "k8s.pod.name",
        "K8S_POD_NAME": "k8s.pod.name",
        "POD_NAMESPACE": "k8s.namespace.name",
        "K8S_NAMESPACE": "k8s.namespace.name",
        "K8S_NAMESPACE_NAME": "k8s.namespace.name",
        "POD_UID": "k8s.pod.uid",
        "K8S_POD_UID": "k8s.pod.uid",
        "K8S_CONTAINER_NAME": "k8s.container.name",
        "K8S_CLUSTER_NAME": "k8s.cluster.name",
        "K8S_JOB_NAME": "k8s.job.name",
        # Slurm: sbatch(1) and srun(1), "OUTPUT ENVIRONMENT VARIABLES".
        "SLURM_JOB_ID": "slurm.job.id",
        "SLURM_JOB_NAME": "slurm.job.name",
        "SLURM_JOB_PARTITION": "slurm.job.partition",
        "SLURM_JOB_ACCOUNT": "slurm.job.account",
        "SLURM_RESTART_COUNT": "slurm.job.restart_count",
        "SLURM_ARRAY_JOB_ID": "slurm.array.job.id",
        "SLURM_ARRAY_TASK_ID": "slurm.array.task.id",
        "SLURM_CLUSTER_NAME": "slurm.cluster.name",
        "SLURM_STEP_ID": "slurm.step.id",
        "SLURMD_NODENAME": "slurm.node.name",
    }
)
"""Environment variable to resource attribute."""

POD_VARIABLE: Final = "KUBERNETES_SERVICE_HOST"
"""Set in every pod; outside one, names like ``NODE_NAME`` mean anything."""

JOB_VARIABLES: Final[tuple[str, ...]] = (
    "OTEL_SERVICE_NAME",
    "OTEL_RESOURCE_ATTRIBUTES",
    POD_VARIABLE,
    *JOB_ATTRIBUTES,
)
"""The variables that are stored in ``Origin.environment``, if they are set."""


def configured_host_name(environ: Mapping[str, str]) -> str:
    """The ``host.name`` that ``OTEL_RESOURCE_ATTRIBUTES`` gives this machine; empty if it has none.

    It is the host name of the resource, so that the host in a record of a failure can be looked up. The last one wins,
    as in OpenTelemetry's own parser.
    """
    pairs = (item.partition("=") for item in environ.get("OTEL_RESOURCE_ATTRIBUTES", "").split(","))
    names = [unquote(value.strip()) for name, _, value in pairs if unquote(name.strip()) == HOST_NAME and value.strip()]
    return names[-1] if names else ""
