"""Who a worker is, for the resource of its own telemetry."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from torchelastic_otel import semconv
from torchelastic_otel.worker.resource_detector import TorchelasticResourceDetector, attributes_of

PROJECT = (Path(__file__).resolve().parents[2] / "pyproject.toml").read_text()
WORKER = {
    "TORCHELASTIC_RUN_ID": "run",
    "RANK": "5",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "8",
    "LOCAL_WORLD_SIZE": "4",
    "GROUP_RANK": "1",
    "GROUP_WORLD_SIZE": "2",
    "ROLE_RANK": "5",
    "ROLE_WORLD_SIZE": "8",
    "ROLE_NAME": "trainer",
    "TORCHELASTIC_RESTART_COUNT": "0",
    "TORCHELASTIC_MAX_RESTARTS": "3",
}


def test_a_worker_of_torchruns_is_told_by_its_environment() -> None:
    """Its spans, logs and metrics can be joined to the agent's by run, rank and restart."""
    assert attributes_of(WORKER) == {
        semconv.RUN_ID: "run",
        semconv.ROLE_NAME: "trainer",
        semconv.WORKER_RANK: 5,
        semconv.WORKER_LOCAL_RANK: 1,
        semconv.WORLD_SIZE: 8,
        semconv.LOCAL_WORLD_SIZE: 4,
        semconv.GROUP_RANK: 1,
        semconv.GROUP_WORLD_SIZE: 2,
        semconv.ROLE_RANK: 5,
        semconv.ROLE_WORLD_SIZE: 8,
        semconv.RESTART_COUNT: 0,
        semconv.RESTARTS_MAX: 3,
    }


@pytest.mark.parametrize(
    "environ", [{}, {"RANK": "0", "WORLD_SIZE": "4", "LOCAL_RANK": "0"}, {"TORCHELASTIC_RUN_ID": "run"}]
)
def test_outside_torchruns_workers_nothing_is_told(environ: dict[str, str]) -> None:
    """Slurm and MPI set RANK as well, and the agent itself is no worker."""
    assert attributes_of(environ) == {}


def test_what_is_no_number_and_no_text_is_left_out_or_mended() -> None:
    """One lone surrogate in a resource makes every export of the process fail."""
    odd = {**WORKER, "WORLD_SIZE": "many", "LOCAL_RANK": "-1", "GROUP_RANK": "٣", "ROLE_NAME": "a\udcff"}
    told = attributes_of(odd)
    assert not {semconv.WORLD_SIZE, semconv.WORKER_LOCAL_RANK, semconv.GROUP_RANK} & told.keys()
    assert str(told[semconv.ROLE_NAME]).encode()


@pytest.mark.torch_unloaded
def test_opentelemetry_finds_it_by_its_name(tmp_path: Path) -> None:
    """``OTEL_EXPERIMENTAL_RESOURCE_DETECTORS=torchelastic`` is all that a user sets."""
    group = "opentelemetry_resource_detector"
    section = PROJECT.partition(f'[project.entry-points."{group}"]')[2].partition("[")[0]
    # as an installation would write it: the one that runs the tests may be older than this entry point
    information = tmp_path / "worker_side-1.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: worker-side\nVersion: 1\n")
    (information / "entry_points.txt").write_text(f"[{group}]\n{section.replace(chr(34), '')}")
    program = (
        "from opentelemetry.sdk.resources import Resource; import sys; print(dict(Resource.create().attributes)); "
    )
    program += "assert 'torch' not in sys.modules"
    environment = {**os.environ, **WORKER, "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": "torchelastic"}
    environment["PYTHONPATH"] = str(tmp_path)
    done = subprocess.run([sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True)
    assert "'torchelastic.worker.rank': 5" in done.stdout


def test_its_resource_says_by_which_conventions(monkeypatch: pytest.MonkeyPatch) -> None:
    """The detector itself, in this process, which is no worker and then is one."""
    assert dict(TorchelasticResourceDetector().detect().attributes) == {}
    for name, value in WORKER.items():
        monkeypatch.setenv(name, value)
    resource = TorchelasticResourceDetector().detect()
    assert resource.attributes[semconv.WORKER_RANK] == 5
    assert resource.schema_url == semconv.SCHEMA_URL
