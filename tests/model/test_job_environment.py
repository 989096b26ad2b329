"""What the environment says of a process, as it is kept with its events."""

from __future__ import annotations

import pytest

from torchelastic_otel.export.otel.resource import parse_resource_attributes
from torchelastic_otel.model.job_environment import configured_host_name


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("", ""),
        ("service.namespace=research", ""),
        ("host.name=gpu-17", "gpu-17"),
        ("team=a, host.name = gpu%2D17 ,rack=3", "gpu-17"),
        ("host.name=,host.name", ""),
        ("host.name=a,host.name=b", "b"),
        ("xhost.name=a", ""),
    ],
)
def test_the_host_is_named_as_its_resource_is(text: str, host: str) -> None:
    """A cause that names another host than the one that its records are found by leads nowhere."""
    assert configured_host_name({"OTEL_RESOURCE_ATTRIBUTES": text}) == host
    assert parse_resource_attributes(text).get("host.name", "") == host
