"""The sbatch example and the README's lines are run by bash, with programs in Slurm's place that note what they get."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.manifests import ROOT, SLURM
from torchelastic_otel.cli import make_parser

EXAMPLE = SLURM / "train.sbatch"
IN_SLURMS_PLACE = f"""#!{sys.executable}
import json, os, sys
from pathlib import Path
name = Path(sys.argv[0]).name
with open(os.environ["NOTES"], "a") as notes:
    notes.write(json.dumps([name, *sys.argv[1:]]) + "\\n")
if name == "scontrol":
    print("train-07\\ntrain-08\\ntrain-11\\ntrain-12")
"""
JOB = {
    "SLURM_JOB_ID": "4711",
    "SLURM_JOB_NODELIST": "train-[07-08,11-12]",
    "SLURM_NNODES": "4",
    "SLURM_GPUS_ON_NODE": "8",
}


@pytest.fixture
def slurm(tmp_path: Path) -> Any:
    """Runs shell as a job would; returns all calls of Slurm's commands."""
    for name in ("srun", "scontrol"):
        (tmp_path / name).write_text(IN_SLURMS_PLACE)
        (tmp_path / name).chmod(0o755)
    notes = tmp_path / "notes"

    def run(shell: str, **environment: str) -> list[list[str]]:
        notes.unlink(missing_ok=True)
        environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "NOTES": str(notes)} | JOB | environment
        subprocess.run(["/bin/bash", "-c", shell], env=environment, check=True, timeout=60)
        return [json.loads(line) for line in notes.read_text().splitlines()]

    return run


def launched(call: list[str]) -> tuple[Any, list[str]]:
    """What torchrun makes of the command that ``srun`` was given, and the script's command line."""
    from torch.distributed.run import config_from_args, get_args_parser

    assert call[0] == "srun"
    arguments = call[call.index("torchrun") + 1 :]
    config, _, script = config_from_args(get_args_parser().parse_args(arguments))
    return config, script


@pytest.mark.torch
def test_torchrun_takes_the_examples_command(slurm: Any) -> None:
    """One agent on each node, a worker for each GPU, all of one rendezvous on the first node."""
    config, script = launched(slurm(EXAMPLE.read_text())[-1])
    assert (config.min_nodes, config.max_nodes, config.nproc_per_node) == (4, 4, 8)
    assert (config.rdzv_backend, config.run_id, config.max_restarts) == ("c10d", "4711", 3)
    assert config.rdzv_endpoint == "train-07:24711"
    assert script[:2] == ["-u", "train.py"]


@pytest.mark.torch
def test_a_job_that_is_requeued_is_the_same_run(slurm: Any) -> None:
    """On other nodes; the attempt is told by slurm.job.restart_count, and checkpoints are found again."""
    first = launched(slurm(EXAMPLE.read_text())[-1])
    again = launched(slurm(EXAMPLE.read_text(), SLURM_RESTART_COUNT="1", SLURM_GPUS_ON_NODE="8")[-1])
    assert (first[0].run_id, first[1]) == (again[0].run_id, again[1])


@pytest.mark.torch
@pytest.mark.parametrize("job", ["1", "99999999"])
def test_the_port_is_one_that_the_kernel_does_not_hand_out(job: str, slurm: Any) -> None:
    """Linux' own come from 32768 on; ports below 1024 are root's."""
    config, _ = launched(slurm(EXAMPLE.read_text(), SLURM_JOB_ID=job)[-1])
    assert 20000 <= int(config.rdzv_endpoint.partition(":")[2]) < 30000


def test_the_example_asks_slurm_for_what_it_uses() -> None:
    """One task on a node is one agent; and a requeued job must not overwrite what the first one wrote."""
    asked = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", EXAMPLE.read_text(), re.MULTILINE))
    assert asked["ntasks-per-node"] == "1"
    assert f"SLURM_GPUS_ON_NODE:-{asked['gpus-per-node']}}}" in EXAMPLE.read_text()
    assert "requeue" in asked
    assert asked["open-mode"] == "append"


def test_a_job_without_nodes_ends_at_once(slurm: Any) -> None:
    """A variable of Slurm's that is missing is no empty rendezvous address."""
    with pytest.raises(subprocess.CalledProcessError):
        slurm("unset SLURM_JOB_NODELIST\n" + EXAMPLE.read_text())


@pytest.mark.torch
def test_the_commands_of_the_slurm_page_are_parsed_by_their_programs(slurm: Any) -> None:
    """What a user copies is parsed by who gets it; it says the same as the example."""
    page = (ROOT / "docs" / "how-to" / "slurm.md").read_text()
    (block,) = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    run, flush = slurm(block.replace(" ... ", " "), head="train-07", port="24711")
    config, _ = launched(run)
    assert (config.run_id, config.rdzv_endpoint, config.max_nodes) == ("4711", "train-07:24711", 4)
    program, *arguments = flush[flush.index("torchelastic-otel") :]
    assert program == "torchelastic-otel"
    assert make_parser().parse_args(arguments).timeout == 30
