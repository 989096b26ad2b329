"""``demo``: a real job, its events, and whether anything is missing."""

from __future__ import annotations

import argparse
import sys
from typing import ClassVar

from torchelastic_otel.cli.command import Command


class Demo(Command):
    """Run a real job on this machine and watch its events arrive.

    Two torchrun agents on loopback, two workers each; one worker fails once, on purpose, and the job restarts. An
    embedded OTLP receiver takes what they export, one by gRPC and one by HTTP; at the end a summary tells what
    arrived from which node and rank, and whether anything is missing. --endpoint sends to a real collector instead.
    """

    exit_codes: ClassVar = {
        0: "the job succeeded and everything arrived",
        1: "something is missing, or the job failed",
        2: "it cannot be run as asked: a wrong option, or torch is not installed",
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

        return run_demo(arguments, sys.stdout)
