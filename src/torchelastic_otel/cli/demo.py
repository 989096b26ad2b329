"""``demo``: a real job, its events, its history, and whether anything is missing."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from torchelastic_otel.cli.command import Command


class Demo(Command):
    """Run a real job on this machine and watch its events arrive.

    Two torchrun agents on loopback, two workers each; one worker fails once, on purpose, and the job restarts. An
    embedded OTLP receiver accepts their exports, from one by gRPC and from one by HTTP. At the end the job's history is
    shown, and whether anything that was stored did not arrive. --endpoint sends to a real collector instead.
    """

    exit_codes: ClassVar = {
        0: "the job succeeded and everything arrived",
        1: "something is missing, or the job failed",
        2: "a wrong option, or torch is not installed",
        130: "interrupted",
    }
    examples = ("torchelastic-otel demo", "torchelastic-otel demo --endpoint http://localhost:4317")

    def prepare_parser(self, parser: argparse.ArgumentParser) -> None:
        """The demonstration's own options."""
        from torchelastic_otel.demo.command import add_arguments

        add_arguments(parser)

    def run(self, arguments: argparse.Namespace) -> int:
        """Run it."""
        from torchelastic_otel.demo.command import run_demo

        return run_demo(arguments, sys.stdout, describe_history)


def describe_history(spools: Sequence[Path]) -> str:
    """The history of a job from its spools, as ``timeline`` shows it."""
    from torchelastic_otel.cli.timeline.render import Page, PageFormat
    from torchelastic_otel.cli.timeline.sources import read_spools
    from torchelastic_otel.cli.timeline.text import write_run
    from torchelastic_otel.history.reducer import HistoryState, add, build_runs

    page = Page(PageFormat())
    data = read_spools(spools, report=page.line)
    for run in build_runs(add(HistoryState(), data.events), alive=data.alive, exited=data.exited):
        write_run(page, run)
    return page.text()
