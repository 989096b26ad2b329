"""``run``: torchrun with the bridge in it, on any torch.

What always holds: torchrun gets its arguments as they were given, and its exit status is ours; where the
environment says no, it runs all the same, without the bridge.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
from dataclasses import replace
from typing import ClassVar

from torchelastic_otel.cli.command import Command, CommandError

logger = logging.getLogger("torchelastic_otel")


class Run(Command):
    """Run torchrun and deliver its events, on torch 2.2 and newer.

    All arguments after "run" go to torchrun untouched; its own help is "torchrun --help". Torch 2.8 and newer find
    the bridge by themselves (plain "torchrun ..." does, where an OpenTelemetry destination is configured); older ones
    need this command.

    Where events go is said by the environment: OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_LOGS_EXPORTER,
    TORCHELASTIC_OTEL_DESTINATIONS. Without any of them: OTLP to its default endpoint on this host.
    TORCHELASTIC_OTEL=off and OTEL_SDK_DISABLED=true run torchrun without the bridge. The exit status is torchrun's.
    """

    exit_codes: ClassVar = {
        0: "the job succeeded",
        1: "the job failed: a worker failed for good, or the rendezvous did",
        2: "torchrun does not understand its arguments, or torch is not installed",
    }
    examples = (
        "torchelastic-otel run --standalone --nproc-per-node 2 train.py --epochs 3",
        "python -m torchelastic_otel run --nnodes 2 --rdzv-backend c10d --rdzv-endpoint host:29400 -m my.training",
    )
    verbatim = True

    def prepare_parser(self, parser: argparse.ArgumentParser) -> None:
        """For the help only: the arguments are torchrun's."""
        parser.usage = "torchelastic-otel run TORCHRUN_ARGUMENTS..."

    def run(self, arguments: argparse.Namespace) -> int:
        """Install, and hand over to torchrun."""
        # torchrun names itself by it in its help and errors
        sys.argv = [os.path.join(os.path.dirname(sys.executable), "torchrun"), *arguments.rest]
        try:
            torchrun = importlib.import_module("torch.distributed.run")
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != "torch":
                raise
            raise CommandError(
                "torch is not installed in this environment; pip install 'torchelastic-otel[torch]'"
            ) from None
        install()
        torchrun.main(list(arguments.rest))
        return 0


def install() -> None:
    """Install as the environment says; who runs this command has asked for it, so that ``auto`` means ``on``."""
    from torchelastic_otel import runtime
    from torchelastic_otel.activation import decide
    from torchelastic_otel.settings import Mode, from_environment

    settings, complaints = from_environment(os.environ)
    if settings.mode is Mode.AUTO:
        settings = replace(settings, mode=Mode.ON)
    activation = decide(os.environ, settings)
    if not activation.active:
        logger.warning("torchrun runs without torchelastic-otel: %s", activation.why)
        return
    if runtime.current() is not None:
        return
    for complaint in complaints:
        logger.warning("%s", complaint)
    runtime.install(settings=settings, watch_torch=True)
