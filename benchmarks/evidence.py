"""What a worker pays for noting its exceptions, and every other Python process for the start-up file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from processes import directory, environment
from report import Check, Section, median, table

NAME = "evidence"
WORKER_MS = 1
OTHER_US = 50
_SOURCES = Path(__file__).resolve().parents[1] / "src"
_START = """
import os, sys, time
before = set(sys.modules)
began = time.perf_counter_ns()
exec(sys.argv[1])
print(time.perf_counter_ns() - began, len(set(sys.modules) - before))
"""
_OTHER = """
import sys, time
line, count = sys.argv[1], 20_000
began = time.perf_counter_ns()
for _ in range(count):
    exec(line)
print((time.perf_counter_ns() - began) / count, 0)
"""


def measure(quick: bool) -> Section:
    """The line of the start-up file, in processes with and without the variable."""
    rounds = 3 if quick else 30
    line = (_SOURCES / "torchelastic_otel_evidence.pth").read_text().strip()
    worker, other, modules = [], [], 0
    for _ in range(rounds):
        with directory() as place:
            variable = f"1:{place / 'evidence'}"
            took, modules = _took(_START, line, place, TORCHELASTIC_OTEL_EVIDENCE_FILE=variable)
            worker.append(took)
            other.append(_took(_OTHER, line, place)[0])
    section = Section(
        NAME,
        "what noting exceptions costs at the start of a process",
        "The line of `torchelastic_otel_evidence.pth`, run as Python runs it (`exec` of the text), in fresh"
        " processes: with the variable that an agent sets, bytecode compiled before; and"
        " without it, 20,000 times in each process.",
    )
    section.checks = [
        Check("a worker", f"below {WORKER_MS} ms", f"{median(worker) / 1e6:.3f} ms", median(worker) < WORKER_MS * 1e6),
        Check(
            "any other process", f"below {OTHER_US} us", f"{median(other) / 1e3:.2f} us", median(other) < OTHER_US * 1e3
        ),
    ]
    section.body = [
        *table(
            ("process", "median", "longest"),
            [
                ("a worker", f"{median(worker) / 1e6:.3f} ms", f"{max(worker) / 1e6:.3f} ms"),
                ("any other process", f"{median(other) / 1e3:.2f} us", f"{max(other) / 1e3:.2f} us"),
            ],
        ),
        "",
        f"A worker loads {modules} modules more. {rounds} processes of each kind.",
    ]
    return section


def _took(program: str, line: str, place: Path, **variables: str) -> tuple[float, int]:
    # -S: the installed start-up file does not run before it is measured
    environ = environment(place, **variables)
    environ.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(
        [sys.executable, "-S", "-c", program, line], env=environ, check=True, capture_output=True, text=True
    )
    took, modules = done.stdout.split()
    return float(took), int(modules)
