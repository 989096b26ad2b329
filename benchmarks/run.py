"""Runs the measurements and writes RESULTS.md: ``make bench``, or ``python benchmarks/run.py``.

``--only NAME`` measures one, and replaces that section alone; ``--quick`` takes few samples, prints, and writes
nothing. It takes about eight minutes, and wants a machine that does nothing else meanwhile.
The exit status is 0 when everything could be measured, whether or not a target was reached: this is no test.
"""

from __future__ import annotations

import argparse
import compileall
import importlib
import os
import sys
import time
import traceback
from pathlib import Path

import report

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT))  # the collectors that misbehave on demand

ORDER = ("record", "exit", "loss", "start", "worker", "evidence")
_MODULES = {"exit": "exit_time"}


def main(arguments: list[str] | None = None) -> int:
    """Measure what is asked for; 1 where something could not be measured."""
    parser = argparse.ArgumentParser(description="Measure what torchelastic-otel costs; writes benchmarks/RESULTS.md.")
    parser.add_argument("--only", action="append", choices=ORDER, metavar="NAME", help=f"one of {', '.join(ORDER)}")
    parser.add_argument("--quick", action="store_true", help="few samples; print, and write nothing")
    asked = parser.parse_args(arguments)
    # as pip does at install: else the first import of each file that was edited compiles it
    compileall.compile_dir(ROOT / "src", quiet=2)
    sections: dict[str, str] = {}
    failed = []
    for name in asked.only or ORDER:
        print(f"bench: {name} ...", file=sys.stderr, flush=True)
        load, began = os.getloadavg()[0], time.monotonic()
        try:
            section = importlib.import_module(_MODULES.get(name, name)).measure(asked.quick)
        except Exception:  # noqa: BLE001 - the other measurements go on
            failed.append(name)
            print(f"bench: {name} could not be measured:\n{traceback.format_exc()}", file=sys.stderr, flush=True)
            continue
        sections[name] = section.render(quick=asked.quick, took_s=time.monotonic() - began, load=load)
        print(sections[name], flush=True)
    if sections and not asked.quick:
        report.write(sections, ORDER)
        print(f"bench: written to {report.RESULTS}", file=sys.stderr)
    if failed:
        print(f"bench: could not be measured: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
