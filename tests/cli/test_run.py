"""``run`` is torchrun, with the bridge in it: same arguments, same statuses, same voice."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.collector import GrpcCollector, attributes_of
from tests.support.orphaned_spools import Spools

SetEnv = Callable[[dict[str, str]], None]
JOB = ("--nnodes", "1", "--nproc-per-node", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0")
# as on torch 2.2, which has no such group and loads nothing by itself
WITHOUT_ENTRY_POINTS = """
import sys
from importlib import metadata
real = metadata.entry_points
def entry_points(**wanted):
    return metadata.EntryPoints() if wanted.get("group") == "torchrun.handlers" else real(**wanted)
metadata.entry_points = entry_points
from torchelastic_otel.cli import main
sys.exit(main(sys.argv[1:]))
"""


def run(*arguments: str, program: tuple[str, ...] = ("-m", "torchelastic_otel")) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, whose exit has time enough to deliver everything."""
    return subprocess.run(
        [sys.executable, *program, "run", *arguments],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TORCHELASTIC_OTEL_FLUSH_TIMEOUT": "30"},
    )


@pytest.fixture
def worker(tmp_path: Path) -> str:
    """A worker that ends with the status it is given, and has its arguments checked."""
    path = tmp_path / "worker.py"
    path.write_text(
        "import sys\nassert sys.argv[2:] == ['--', '-h', '--nnodes=3'], sys.argv\nsys.exit(int(sys.argv[1]))\n"
    )
    return str(path)


@pytest.mark.live
@pytest.mark.torch
@pytest.mark.parametrize("program", [("-m", "torchelastic_otel"), ("-c", WITHOUT_ENTRY_POINTS)], ids=["both", "alone"])
def test_a_jobs_events_arrive_once_with_and_without_the_entry_point(
    program: tuple[str, ...], spools: Spools, setenv: SetEnv, worker: str
) -> None:
    """Way in 2; options right behind ``run``, and the worker's own, are torchrun's business."""
    with GrpcCollector() as collector:
        setenv(collector.env())
        done = run(*JOB, worker, "0", "--", "-h", "--nnodes=3", program=program)
        assert done.returncode == 0, done.stderr
        uids = collector.uids()
        names = [record.event_name for _, record in collector.records()]
        assert len({resource["service.instance.id"] for resource, _ in collector.records()}) == 1
        assert len(uids) == len(set(uids))
        assert names.count("torchelastic.agent.succeeded") == 1
        assert names.count("torchelastic.worker.succeeded") == 2
        joined = next(record for _, record in collector.records() if record.event_name.endswith(".joined"))
        assert attributes_of(joined.attributes)["torchelastic.group.world_size"] == 1


@pytest.mark.live
@pytest.mark.torch
def test_a_job_that_fails_ends_as_torchrun_does(spools: Spools, setenv: SetEnv, worker: str) -> None:
    """Schedulers act on the status, people on torchrun's own words."""
    setenv({"TORCHELASTIC_OTEL_DESTINATIONS": "memory"})
    done = run(*JOB, worker, "3", "--", "-h", "--nnodes=3")
    assert done.returncode == 1
    assert "ChildFailedError" in done.stderr
    assert "exitcode  : 3" in done.stderr


@pytest.mark.live
@pytest.mark.torch
@pytest.mark.parametrize("variables", [{"TORCHELASTIC_OTEL": "off"}, {"OTEL_SDK_DISABLED": "true"}])
def test_no_means_no_and_the_job_runs(variables: dict[str, str], spools: Spools, setenv: SetEnv, worker: str) -> None:
    """The switch must work whichever way in a job's image has built in."""
    setenv(variables)
    done = run(*JOB, worker, "0", "--", "-h", "--nnodes=3")
    assert done.returncode == 0, done.stderr
    assert "torchrun runs without torchelastic-otel" in done.stderr
    assert list(spools.directory.iterdir()) == []


@pytest.mark.torch
def test_torchruns_own_mistakes_and_help_are_torchruns() -> None:
    """``run --help`` is ours; behind any other argument it is torchrun's, and so are its errors."""
    done = run("--no-such-option")
    assert done.returncode == 2
    assert done.stderr.startswith("usage: torchrun ")
    done = run("--nnodes", "1", "--help")
    assert done.returncode == 0
    assert done.stdout.startswith("usage: torchrun ")
    done = run("--help")
    assert done.returncode == 0
    assert '"torchrun --help" shows them' in done.stdout


def test_without_torch_one_line_says_what_to_install() -> None:
    """The likeliest mistake in a new image."""
    program = (
        "import sys; sys.modules['torch'] = None; from torchelastic_otel.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    done = run("train.py", program=("-c", program))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "pip install 'torchelastic-otel[torch]'" in done.stderr


@pytest.mark.torch
def test_asked_for_by_hand_it_is_active_without_any_variable(tmp_path: Path) -> None:
    """Who types ``run`` wants it: OTLP to its default endpoint; what the environment names goes before."""
    program = """
import os, sys
from torchelastic_otel.runtime import api as runtime
from torchelastic_otel.cli.run import install
install()
installed = runtime.current()
print(installed.status.exporters)
install()
assert runtime.current() is installed
os._exit(0)
"""
    for variables, exporters in (({}, "('otlp',)"), ({"OTEL_LOGS_EXPORTER": "console"}, "('console',)")):
        environment = {**os.environ, "TORCHELASTIC_OTEL": "auto", "TMPDIR": str(tmp_path), **variables}
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=False, env=environment
        )
        assert done.stdout == exporters + "\n", done.stderr
