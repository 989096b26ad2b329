"""The systemd unit of a node's Collector, the files that it reads, and where the README puts them."""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import stat
import subprocess
from pathlib import Path, PurePosixPath

import pytest

from tests.support.manifests import (
    CONFIG,
    SLURM,
    documents,
    environment_file,
    resolved,
    shell_blocks,
    size,
    to_fill_in,
    tries_s,
    variables,
)

UNIT = SLURM / "otelcol-agent.service"

# The keys that may stand in the unit, by the manual pages of systemd 252: systemd.unit(5), systemd.service(5),
# systemd.exec(5), systemd.kill(5), systemd.resource-control(5). systemd ignores a key that it does not know, and a
# hardening that is ignored is none.
KEYS = {
    "Unit": "Description Documentation Wants After Before StartLimitIntervalSec",
    "Service": """
        Type ExecStart Restart RestartSec TimeoutStopSec EnvironmentFile Environment DynamicUser StateDirectory
        StateDirectoryMode UMask AmbientCapabilities CapabilityBoundingSet NoNewPrivileges LockPersonality
        MemoryDenyWriteExecute PrivateDevices PrivateTmp ProtectClock ProtectControlGroups ProtectHome ProtectHostname
        ProtectKernelLogs ProtectKernelModules ProtectKernelTunables ProtectProc ProtectSystem RemoveIPC
        RestrictAddressFamilies RestrictNamespaces RestrictRealtime RestrictSUIDSGID SystemCallArchitectures
        SystemCallFilter SystemCallErrorNumber Nice OOMScoreAdjust LimitNOFILE KillMode MemoryMax TasksMax CPUWeight
        """,
    "Install": "WantedBy",
}


def unit() -> configparser.ConfigParser:
    """The unit; of a key that stands there twice, the last."""
    parser = configparser.ConfigParser(strict=False, interpolation=None, comment_prefixes=("#",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(UNIT.read_text())
    return parser


def installed() -> dict[str, tuple[Path, int]]:
    """Where the README's commands put which file, with which mode."""
    found = {}
    for line in shell_blocks(SLURM / "README.md").splitlines():
        words = shlex.split(line, comments=True)
        if {"install", "-m", "-t"} <= set(words):
            mode, target = words[words.index("-m") + 1], words[words.index("-t") + 1]
            for source in words[words.index("-t") + 2 :]:
                found[f"{target}/{PurePosixPath(source).name}"] = (CONFIG / source, int(mode, 8))
    return found


def test_every_key_is_systemds() -> None:
    """See above."""
    for section, body in unit().items():
        assert set(body) <= set(KEYS.get(section, "").split())


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="no systemd-analyze on PATH: systemd did NOT read the unit"
)
def test_systemd_finds_no_fault_in_the_unit(tmp_path: Path) -> None:
    """Values, too; with a program that is here in place of the Collector."""
    program = unit()["Service"]["ExecStart"].split()[0]
    tried = tmp_path / UNIT.name
    for text, faults in (
        (UNIT.read_text(), False),
        (UNIT.read_text().replace("ProtectSystem=strict", "ProtectSystem=stricter"), True),
    ):
        tried.write_text(text.replace(program, "/bin/true"))
        said = subprocess.run(["systemd-analyze", "verify", str(tried)], capture_output=True, text=True, check=False)
        # of this file: other units of the machine are read as well
        assert (f"{UNIT.name}:" in said.stderr or said.returncode != 0) == faults, said.stderr


def test_every_variable_without_a_default_is_given() -> None:
    """A Collector whose variable is empty starts, and sends nowhere."""
    (config,) = documents(CONFIG / "agent.yaml")
    needed, every = variables(config)
    given = set(environment_file(SLURM / "agent.env"))
    assert needed
    # the secret is for the site to say, and without it the Collector does not start
    assert to_fill_in(SLURM / "agent.env") == {"GATEWAY_TOKEN"}
    assert needed <= given | {"GATEWAY_TOKEN"}
    assert "GATEWAY_TOKEN" not in given
    assert given <= every


def test_it_comes_back_with_its_queue() -> None:
    """The queue is below what systemd keeps for the unit, for it alone."""
    service = unit()["Service"]
    assert service["Restart"] == "always"
    assert unit()["Unit"]["StartLimitIntervalSec"] == "0"
    (config,) = documents(CONFIG / "agent.yaml")
    queue = resolved(config, environment_file(SLURM / "agent.env"))["extensions"]["file_storage"]["directory"]
    assert PurePosixPath(queue).is_relative_to(f"/var/lib/{service['StateDirectory']}")
    assert service["StateDirectoryMode"] == "0700"


def test_the_limiter_refuses_before_the_kernel_kills() -> None:
    """What is refused waits in the agents' spools."""
    service = unit()["Service"]
    limit = size(service["MemoryMax"])
    (config,) = documents(CONFIG / "agent.yaml")
    limiter = resolved(config, environment_file(SLURM / "agent.env"))["processors"]["memory_limiter"]
    assert int(limiter["limit_mib"]) * 2**20 <= 0.8 * limit
    assert size(service["Environment"].removeprefix("GOMEMLIMIT=")) <= 0.8 * limit


def test_a_stop_waits_for_the_last_tries() -> None:
    """What is killed in the middle of one sends it again; where all hangs, a stop takes as long as this."""
    (config,) = documents(CONFIG / "agent.yaml")
    assert tries_s(config) < float(unit()["Service"]["TimeoutStopSec"].removesuffix("s"))


def test_prometheus_reaches_the_numbers_and_no_job_takes_their_port() -> None:
    """From another machine, on the port that the README lets through; 8888 is the first one that a Jupyter tries."""
    (config,) = documents(CONFIG / "agent.yaml")
    (reader,) = resolved(config, environment_file(SLURM / "agent.env"))["service"]["telemetry"]["metrics"]["readers"]
    numbers = reader["pull"]["exporter"]["prometheus"]
    assert numbers["host"] == "0.0.0.0"
    assert f"port {numbers['port']} of each node" in (SLURM / "README.md").read_text()
    assert int(numbers["port"]) not in (8888, *range(20000, 30000))  # train.sbatch's
    assert int(numbers["port"]) < 32768  # the kernel's


def test_an_update_leaves_what_the_site_has_edited(tmp_path: Path) -> None:
    """The README's lines, run twice below another root: a token is there still, and for root alone; the rest is new."""
    lines = [line for line in shell_blocks(SLURM / "README.md").splitlines() if "install -D" in line]
    for source, _ in installed().values():
        there = tmp_path / "source" / source.relative_to(CONFIG)
        there.parent.mkdir(parents=True, exist_ok=True)
        there.write_text(source.read_text() if source.is_file() else "a certificate")
    command = ["/bin/bash", "-euc", "\n".join(lines).replace(" /etc/", f" {tmp_path}/etc/")]
    subprocess.run(command, cwd=tmp_path / "source", check=True, timeout=60)
    for path, (_, mode) in installed().items():
        assert stat.S_IMODE((tmp_path / path.removeprefix("/")).stat().st_mode) == mode
    settings, of_jobs, config = (
        tmp_path / "etc" / name
        for name in (
            "otelcol-torchelastic/agent.env",
            "torchelastic-otel/torchelastic-otel.env",
            "otelcol-torchelastic/agent.yaml",
        )
    )
    for file in (settings, of_jobs, config):
        file.write_text("edited")
    subprocess.run(command, cwd=tmp_path / "source", check=True, timeout=60)
    assert (settings.read_text(), stat.S_IMODE(settings.stat().st_mode)) == ("edited", 0o600)
    assert of_jobs.read_text() == "edited"
    assert config.read_text() == (CONFIG / "agent.yaml").read_text()


def test_the_settings_are_edited_before_the_collector_is_started() -> None:
    """Installed, edited, started: with what stands in the file as it is shipped there is no token."""
    text = (SLURM / "README.md").read_text()
    edited = text.index(f"Edit `{unit()['Service']['EnvironmentFile']}`")
    assert text.rindex("install -D") < edited < text.index(f"systemctl restart {UNIT.stem}")
    assert "enable --now" not in text  # which leaves one that runs as it was, at an update


def test_jobs_reach_the_collector_where_they_are_told_to() -> None:
    """On the loopback interface alone: no other node can send here."""
    (config,) = documents(CONFIG / "agent.yaml")
    protocols = resolved(config, environment_file(SLURM / "agent.env"))["receivers"]["otlp"]["protocols"]
    told = environment_file(SLURM / "torchelastic-otel.env")["OTEL_EXPORTER_OTLP_ENDPOINT"]
    assert told == f"http://{protocols['grpc']['endpoint']}"
    assert all(body["endpoint"].startswith("127.0.0.1:") for body in protocols.values())


def test_the_readme_puts_every_file_where_it_is_looked_for() -> None:
    """Unit, configuration, settings and scripts name each other by path."""
    there = installed()
    service = unit()["Service"]
    config = service["ExecStart"].partition("--config=")[2]
    assert there[config][0] == CONFIG / "agent.yaml"
    assert there[service["EnvironmentFile"]] == (SLURM / "agent.env", 0o600)
    assert environment_file(SLURM / "agent.env")["GATEWAY_CA_FILE"] in there
    assert (UNIT, 0o644) in there.values()
    text = (SLURM / "README.md").read_text()
    for script in SLURM.glob("*.sh"):
        (site,) = re.findall(r"TORCHELASTIC_OTEL_SITE:-([^}]+)\}", script.read_text())
        assert there[site] == (SLURM / "torchelastic-otel.env", 0o644)
        (target,) = (path for path, (source, mode) in there.items() if (source, mode) == (script, 0o755))
        assert re.search(rf"^(Prolog|TaskProlog|Epilog)={re.escape(target)}$", text, re.MULTILINE)
    (program,) = re.findall(r"TORCHELASTIC_OTEL_PROGRAM:-([^}]+)\}", (SLURM / "epilog.sh").read_text())
    assert f"{PurePosixPath(program).parent}/pip install --upgrade torchelastic-otel" in text
    assert f"`{service['ExecStart'].split()[0]}`" in text
    assert all(source.is_file() or source.name == "ca.crt" for source, _ in there.values())


def test_every_shipped_file_stands_in_the_readme() -> None:
    """What nobody knows of, nobody installs."""
    text = (SLURM / "README.md").read_text()
    for path in SLURM.iterdir():
        assert path.name == "README.md" or f"({path.name})" in text


def test_the_sites_defaults_are_one() -> None:
    """Prolog, epilog and the file that jobs read must mean the same folder."""
    default = environment_file(SLURM / "torchelastic-otel.env")["TORCHELASTIC_OTEL_SPOOL_DIR"]
    for script in ("prolog.sh", "epilog.sh"):
        assert f"${{TORCHELASTIC_OTEL_SPOOL_DIR:-{default}}}" in (SLURM / script).read_text()
