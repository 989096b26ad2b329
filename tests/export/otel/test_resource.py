"""The resource of a process, from what its origin knows."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any
from unittest import mock

import pytest
from opentelemetry.sdk.resources import OTELResourceDetector

from tests.support.stored_events import ORIGIN
from torchelastic_otel.export.otel import resource
from torchelastic_otel.export.otel.resource import detect, resource_of
from torchelastic_otel.model.event import Origin
from torchelastic_otel.model.job_environment import JOB_ATTRIBUTES, JOB_VARIABLES


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests use one origin id for many origins."""
    monkeypatch.setattr(resource, "_cache", type(resource._cache)())


def attributes(**environment: str) -> dict[str, Any]:
    """Resource attributes of a process with these variables."""
    return dict(resource_of(replace(ORIGIN, environment=environment)).attributes)


def test_a_process_that_nobody_named_is_torchrun_on_its_own_host() -> None:
    """The least that is always there."""
    found = attributes()
    assert found.pop("telemetry.sdk.version")
    assert found == {
        "service.name": "torchrun",
        "service.instance.id": ORIGIN.id,
        "host.name": "node-a",
        "process.pid": 41,
        "telemetry.sdk.language": "python",
        "telemetry.sdk.name": "opentelemetry",
    }


def test_the_delivering_process_s_environment_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise 3: an adopted spool is delivered under its own names."""
    monkeypatch.setenv("OTEL_SERVICE_NAME", "another-job")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "host.name=elsewhere")
    monkeypatch.setenv("SLURM_JOB_ID", "999")
    found = attributes()
    assert (found["service.name"], found["host.name"]) == ("torchrun", "node-a")
    assert "slurm.job.id" not in found


def test_the_user_s_attributes_go_before_everything_else() -> None:
    """Specification: what the user provides has priority over detectors."""
    origin = replace(
        ORIGIN,
        environment={
            "OTEL_RESOURCE_ATTRIBUTES": "host.name=h,service.instance.id=i,service.name=from-attributes,a=b",
            "K8S_POD_NAME": "pod",
        },
        detected={"a": "detected", "host.name": "detected", "service.name": "detected", "cloud.region": "r"},
    )
    found = resource_of(origin).attributes
    assert [found[key] for key in ("host.name", "service.instance.id", "service.name", "a", "cloud.region")] == [
        "h",
        "i",
        "from-attributes",
        "b",
        "r",
    ]
    assert found["k8s.pod.name"] == "pod"


def test_the_service_name_variable_goes_before_the_attribute() -> None:
    """Specification: OTEL_SERVICE_NAME takes precedence over service.name."""
    found = attributes(OTEL_RESOURCE_ATTRIBUTES="service.name=a", OTEL_SERVICE_NAME="b")
    assert found["service.name"] == "b"
    assert attributes(OTEL_SERVICE_NAME="")["service.name"] == "b", "the same origin id is cached"


@pytest.mark.parametrize(
    "text", ["a=b", "a=b,c=d", " a = b , c=d ", "a=b%2Cc%3Dd", "a=%C3%A9", "a=b=c", "broken,a=b", "a=b,,c=d"]
)
def test_resource_attributes_are_read_as_the_sdk_reads_them(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK's own detector is the oracle."""
    monkeypatch.delenv("OTEL_SERVICE_NAME", raising=False)
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", text)
    oracle = dict(OTELResourceDetector().detect().attributes)
    assert resource.parse_resource_attributes(text) == oracle


@pytest.mark.parametrize("variable", JOB_ATTRIBUTES)
def test_each_job_variable_names_its_attribute(variable: str) -> None:
    """Kubernetes and Slurm facts are what a person finds the job by."""
    assert variable in JOB_VARIABLES
    assert attributes(**{variable: "value", "KUBERNETES_SERVICE_HOST": "10.0.0.1"})[JOB_ATTRIBUTES[variable]] == "value"


def test_outside_a_pod_common_names_are_not_taken_for_kubernetes() -> None:
    """Many a machine has a NODE_NAME; a pod always has KUBERNETES_SERVICE_HOST."""
    found = attributes(NODE_NAME="n", K8S_POD_NAME="p")
    assert "k8s.node.name" not in found
    assert found["k8s.pod.name"] == "p"


def test_a_pid_that_a_replay_does_not_know_is_left_out() -> None:
    """0 is nobody's pid."""
    assert "process.pid" not in resource_of(replace(ORIGIN, pid=0)).attributes


def test_a_lone_surrogate_of_an_environment_is_replaced() -> None:
    """An environment variable that is not UTF-8 would fail every export of this process."""
    found = attributes(K8S_POD_NAME="p\udcff", OTEL_RESOURCE_ATTRIBUTES="k\udcff=v\udcff")
    assert found["k8s.pod.name"] == "p?"
    assert found["k?"] == "v?"


def test_a_long_value_is_cut() -> None:
    """A batch is at most 1 MiB, and its resource is in it."""
    assert len(attributes(SLURM_JOB_NAME="x" * 100_000)["slurm.job.name"]) == resource.MAX_VALUE_LENGTH


def test_the_same_origin_gives_the_same_object_and_old_ones_are_forgotten() -> None:
    """Encoding groups by resource; a sidecar that flushes for months must not grow."""
    assert resource_of(ORIGIN) is resource_of(replace(ORIGIN, pid=42))
    for number in range(300):
        resource_of(Origin(id=str(number), host_name="h", pid=1, started_ns=1))
    assert len(resource._cache) == resource._MAX_CACHED


class Raising:
    """A detector that fails."""

    def detect(self) -> Any:
        """Fail."""
        raise RuntimeError("no metadata service")


class Hanging:
    """A detector that asks somebody who never answers."""

    def detect(self) -> Any:
        """Hang."""
        threading.Event().wait()


def entry_points(**detectors: type) -> Any:
    """Entry points that load these detectors, beside nothing installed."""

    def find(*, group: str, name: str) -> list[Any]:
        assert group == "opentelemetry_resource_detector"
        return [mock.Mock(load=lambda: detectors[name])] if name in detectors else []

    return find


def test_the_detectors_that_are_installed_are_run() -> None:
    """`host` and `process` come with the SDK."""
    said: list[str] = []
    found = detect({"OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": " process ,otel,os"}, warn=said.append)
    assert said == []
    assert found["process.runtime.name"] == "cpython"
    assert found["os.type"] == "linux"
    assert "service.name" not in found


def test_no_detector_named_means_none_run() -> None:
    """Nothing is detected that nobody asked for."""
    assert detect({}, warn=pytest.fail) == {}


def test_a_detector_that_fails_hangs_or_is_unknown_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cloud's metadata service that does not answer must not hold up a start."""
    monkeypatch.setattr(resource, "entry_points", entry_points(raising=Raising, hanging=Hanging))
    said: list[str] = []
    names = {"OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": "raising,unknown,hanging"}
    assert detect(names, timeout_s=2.0, warn=said.append) == {}
    assert [name in text for name, text in zip(["raising", "unknown", "hanging"], said, strict=True)] == [True] * 3
    assert "no metadata service" in said[0]
    assert "2 s" in said[2]
