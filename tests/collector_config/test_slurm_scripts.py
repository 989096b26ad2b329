"""Prolog, task prolog and epilog are run as slurmd runs them: without a search path, with Slurm's variables.

Where the tests run as root, another user's job is tried too; that is what the scripts are for.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.collector import HANG, GrpcCollector, HttpCollector
from tests.support.manifests import SLURM, environment_file
from tests.support.orphaned_spools import Spools
from torchelastic_otel.settings import SETTINGS
from torchelastic_otel.spool.directory import SPOOL_SUFFIX, prepare_directory, user_directory

SCRIPTS = sorted([*SLURM.glob("*.sh"), *SLURM.glob("*.sbatch")])
PROGRAMS = Path(sys.executable).parent
ME = os.geteuid()
NOBODY = 65534
USERS = [ME, NOBODY] if ME == 0 else [ME]
EPILOG_MARGIN_S = 5
"""How much longer than its timeout the epilog may take, as its header says."""
SOON_S = 20
"""Enough for any machine, and less than for ever: an epilog that waited for what hangs would take that long."""


class Node:
    """A node's disk: the site's settings and the parent of the spools."""

    def __init__(self, root: Path) -> None:
        self.site = root / "torchelastic-otel.env"
        self.base = root / "spools"
        self.settings = {"TORCHELASTIC_OTEL_SPOOL_DIR": str(self.base)}

    def run(self, script: str, uid: int | str = ME, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a script as slurmd does, with these settings in the site's file."""
        self.site.write_text("".join(f"{name}={value}\n" for name, value in self.settings.items()))
        environment |= {
            "TORCHELASTIC_OTEL_SITE": str(self.site),
            "SLURM_JOB_ID": "17",
            "SLURM_JOB_UID": str(uid),
            "SLURM_JOB_GID": str(uid),
        }
        command = ["/bin/bash", str(SLURM / script)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def node() -> Iterator[Node]:
    """A node of the test's own; below a directory that other users can enter, unlike pytest's."""
    root = Path(tempfile.mkdtemp(prefix="slurm-node-"))
    root.chmod(0o755)
    yield Node(root)
    shutil.rmtree(root)


@pytest.fixture
def spy(node: Node) -> Path:
    """A program in place of ours, which notes who runs it, with which arguments and environment."""
    node.base.mkdir()
    notes = node.base / "notes"
    notes.mkdir()
    notes.chmod(0o777)
    program = node.base / "program"
    program.write_text(f'#!/bin/sh\nid -u >{notes}/user\necho "$@" >{notes}/arguments\nenv >{notes}/environment\n')
    program.chmod(0o755)
    node.settings["TORCHELASTIC_OTEL_PROGRAM"] = str(program)
    return notes


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_every_script_is_read_by_bash_and_has_no_fault_that_shellcheck_knows(script: Path) -> None:
    """They run as root on every node."""
    subprocess.run(["/bin/bash", "-n", str(script)], check=True)
    checked = subprocess.run(
        [str(PROGRAMS / "shellcheck"), "--severity=style", str(script)], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout
    assert script.suffix != ".sh" or os.access(script, os.X_OK)


@pytest.mark.parametrize("uid", USERS)
def test_the_prolog_makes_a_folder_that_is_the_users_alone(uid: int, node: Node) -> None:
    """And that an agent of the user's takes: the same name, owner and mode."""
    done = node.run("prolog.sh", uid)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    made = user_directory(node.base, uid)
    found = made.stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o700, uid, uid)
    assert [path.name for path in node.base.iterdir()] == [made.name]
    assert stat.S_IMODE(node.base.stat().st_mode) == 0o755
    if uid == ME:
        assert prepare_directory(node.base, uid) == made


def test_the_prolog_of_the_next_job_leaves_the_spools_alone(node: Node) -> None:
    """What the last job left is delivered by this one's agents."""
    node.run("prolog.sh")
    Spools(node.base).dead(2)
    before = sorted((path.name, path.stat().st_mtime_ns) for path in user_directory(node.base, ME).iterdir())
    done = node.run("prolog.sh")
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted((path.name, path.stat().st_mtime_ns) for path in user_directory(node.base, ME).iterdir()) == before


@pytest.mark.parametrize("is_there", [True, False])
@pytest.mark.parametrize("uid", USERS)
def test_the_prolog_follows_no_link_and_says_so(uid: int, is_there: bool, node: Node) -> None:
    """A user who puts a link there must not be given what it leads to, and nothing is made there."""
    node.base.mkdir()
    others = node.base / "others"
    if is_there:
        others.mkdir(0o755)
    link = user_directory(node.base, uid)
    link.symlink_to(others)
    done = node.run("prolog.sh", uid)
    assert done.returncode == 0
    assert "is a symbolic link" in done.stderr
    assert {path.name for path in node.base.iterdir()} == {link.name} | ({others.name} if is_there else set())
    if is_there:
        assert (stat.S_IMODE(others.stat().st_mode), others.stat().st_uid) == (0o755, ME)
        assert list(others.iterdir()) == []


def test_jobs_that_begin_at_once_make_one_folder(node: Node) -> None:
    """A job array: many prologs of one user on one node in the same moment."""
    for _ in range(3):
        with ThreadPoolExecutor(8) as pool:
            done = list(pool.map(lambda _: node.run("prolog.sh"), range(8)))
        assert {each.returncode for each in done} == {0}
        made = user_directory(node.base, ME)
        assert list(node.base.iterdir()) == [made]
        assert list(made.iterdir()) == []
        made.rmdir()


def test_a_folder_that_is_open_to_others_is_told_and_not_changed(node: Node) -> None:
    """Agents refuse it; whoever reads slurmd's log learns why."""
    node.base.mkdir()
    user_directory(node.base, ME).mkdir(0o755)
    done = node.run("prolog.sh")
    assert done.returncode == 0
    assert "mode 755" in done.stderr
    assert stat.S_IMODE(user_directory(node.base, ME).stat().st_mode) == 0o755


@pytest.mark.parametrize("script", ["prolog.sh", "epilog.sh"])
def test_no_node_is_drained_for_its_telemetry(script: str, node: Node) -> None:
    """Slurm drains a node whose prolog or epilog ends with another status than 0."""
    assert node.run(script, "").returncode == 0
    assert "is no user id" in node.run(script, "root; id").stderr
    node.settings["TORCHELASTIC_OTEL_SPOOL_DIR"] = f"{node.site}/below-a-file"
    assert node.run(script).returncode == 0
    node.settings = {"TORCHELASTIC_OTEL_SPOOL_DIR": str(node.base), "TORCHELASTIC_OTEL_PROGRAM": "/no/such/program"}
    Spools(node.base).dead(1)
    done = node.run(script)
    assert done.returncode == 0
    assert ("/no/such/program is not there" in done.stderr) == (script == "epilog.sh")


def test_a_task_gets_the_sites_settings_and_keeps_its_own(node: Node) -> None:
    """Slurm takes each line `export NAME=value` of a TaskProlog's output into the task's environment."""
    node.settings["OTEL_EXPORTER_OTLP_ENDPOINT"] = "http://127.0.0.1:4317"
    node.settings["# a comment with OTEL_A"] = "1"
    node.settings["PATH"] = "/elsewhere"
    node.settings["OTEL_$(id)"] = "1"
    done = node.run("task-prolog.sh")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"export TORCHELASTIC_OTEL_SPOOL_DIR={node.base}",
        "export OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4317",
    ]
    done = node.run("task-prolog.sh", OTEL_EXPORTER_OTLP_ENDPOINT="http://mine:4317")
    assert done.stdout.splitlines() == [f"export TORCHELASTIC_OTEL_SPOOL_DIR={node.base}"]
    node.site.unlink()
    silent = subprocess.run(
        ["/bin/bash", str(SLURM / "task-prolog.sh")], env={"TORCHELASTIC_OTEL_SITE": str(node.site)}, check=True
    )
    assert silent.stdout is None


@pytest.mark.parametrize("kind", [HttpCollector, GrpcCollector])
def test_what_a_killed_agent_left_is_delivered_by_the_epilog(kind: type[HttpCollector], node: Node) -> None:
    """A job's whole way over a node: prolog, agents that are killed, epilog."""
    node.run("prolog.sh")
    spools = Spools(node.base)
    spools.dead(3)
    with spools.live() as agent:
        agent.kill()
    node.settings["TORCHELASTIC_OTEL_PROGRAM"] = str(PROGRAMS / "torchelastic-otel")
    with kind() as collector:
        node.settings |= collector.env()
        done = node.run("epilog.sh")
        assert done.returncode == 0, done.stderr
        assert len(collector.uids()) == len(set(collector.uids())) == 4
    assert "4 events of 2 processes delivered; nothing is left" in done.stderr
    assert spools.files(SPOOL_SUFFIX) == []


def test_an_epilog_that_cannot_deliver_ends_in_time_and_leaves_everything(node: Node) -> None:
    """A Collector that takes connections and never answers: the next job must not wait for it.

    `flush` ends by itself (1), or where a busy machine takes seconds to start Python, by `timeout` (124, 137).
    """
    spools = Spools(node.base)
    spools.dead(3)
    node.settings["TORCHELASTIC_OTEL_PROGRAM"] = str(PROGRAMS / "torchelastic-otel")
    node.settings["TORCHELASTIC_OTEL_EPILOG_TIMEOUT"] = "1"
    with HttpCollector() as collector:
        collector.behaviour = HANG
        node.settings |= collector.env()
        began = time.monotonic()
        done = node.run("epilog.sh")
        took = time.monotonic() - began
    assert done.returncode == 0
    assert took < SOON_S
    assert re.search("flush ended with status (1|124|137); what is left waits for the next job", done.stderr)
    assert len(spools.files(SPOOL_SUFFIX)) == 1


def test_the_epilogs_bound_is_the_one_of_its_header() -> None:
    """A machine that is busy says nothing about seconds; that the bound holds is the next test's."""
    script = (SLURM / "epilog.sh").read_text()
    ((kill_after, longer),) = re.findall(r'timeout --kill-after=(\d+) "\$\(\(seconds \+ (\d+)\)\)"', script)
    assert int(kill_after) + int(longer) == EPILOG_MARGIN_S
    assert "ends within TORCHELASTIC_OTEL_EPILOG_TIMEOUT and five seconds" in script


def test_an_epilog_whose_program_does_not_end_kills_it(node: Node, spy: Path) -> None:
    """A disk that hangs holds a process even against SIGTERM."""
    Spools(node.base).dead(1)
    program = Path(node.settings["TORCHELASTIC_OTEL_PROGRAM"])
    program.write_text(f"#!/bin/sh\ntrap '' TERM\necho $$ >{spy}/pid\nwhile :; do sleep 0.1; done\n")
    node.settings["TORCHELASTIC_OTEL_EPILOG_TIMEOUT"] = "0"
    began = time.monotonic()
    done = node.run("epilog.sh")
    assert time.monotonic() - began < SOON_S
    assert done.returncode == 0
    assert "status 137" in done.stderr
    state = Path("/proc", (spy / "pid").read_text().strip(), "stat")
    # a zombie is dead, too, where nobody reaps what its parent left
    while state.exists() and state.read_text().rpartition(")")[2].split()[0] not in "ZX":
        assert time.monotonic() - began < 30


@pytest.mark.parametrize("uid", USERS)
def test_the_epilog_delivers_as_the_user_and_shows_nothing_of_slurmds(uid: int, node: Node, spy: Path) -> None:
    """The user can read the environment of what runs as the user."""
    spool = user_directory(node.base, uid) / f"0{SPOOL_SUFFIX}"
    spool.parent.mkdir()
    spool.touch()
    node.settings["OTEL_EXPORTER_OTLP_ENDPOINT"] = "http://127.0.0.1:4317"
    done = node.run("epilog.sh", uid, SLURMDS_SECRET="hunter2")
    assert (done.returncode, done.stderr) == (0, "")
    assert (spy / "user").read_text().strip() == str(uid)
    assert (spy / "arguments").read_text().strip() == "flush --timeout 15"
    shown = dict(line.split("=", 1) for line in (spy / "environment").read_text().splitlines())
    assert shown["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://127.0.0.1:4317"
    assert shown["TORCHELASTIC_OTEL_SPOOL_DIR"] == str(node.base)
    allowed = {"PATH", "HOME", "PWD", "SHLVL", "_", "OLDPWD"}
    assert {name for name in shown if not name.startswith(("OTEL_", "TORCHELASTIC_OTEL_"))} <= allowed


def test_the_epilog_of_a_job_that_left_nothing_starts_nothing(node: Node, spy: Path) -> None:
    """Most jobs: no interpreter is started on any node for them."""
    assert node.run("epilog.sh").returncode == 0
    node.run("prolog.sh")
    assert node.run("epilog.sh").returncode == 0
    assert list(spy.iterdir()) == []


def test_a_timeout_that_is_no_number_is_told(node: Node, spy: Path) -> None:
    """A bad setting is named and the default used."""
    Spools(node.base).dead(1)
    node.settings["TORCHELASTIC_OTEL_EPILOG_TIMEOUT"] = "soon"
    done = node.run("epilog.sh")
    assert done.returncode == 0
    assert "TORCHELASTIC_OTEL_EPILOG_TIMEOUT='soon'" in done.stderr
    assert (spy / "arguments").read_text().strip() == "flush --timeout 15"


def test_what_jobs_are_told_are_settings_and_no_secrets() -> None:
    """The file is open to everybody on the node."""
    told = environment_file(SLURM / "torchelastic-otel.env")
    known = {setting.variable for setting in SETTINGS} | {"OTEL_EXPORTER_OTLP_ENDPOINT"}
    assert set(told) <= known
    assert told["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://127.0.0.1:4317"
