"""``run``: torchrun with the bridge, on any torch.

Guarantees: torchrun gets its arguments unchanged, and its exit status is the command's; if the environment disables the
bridge, torchrun runs without it.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
from dataclasses import replace
from typing import ClassVar, Final

from torchelastic_otel.cli.command import Command
from torchelastic_otel.errors import CommandError

logger = logging.getLogger("torchelastic_otel")

LAUNCHERS: Final = {
    "torchrun": ("torch.distributed.run", "'torchelastic-otel[torch]'"),
    "ft_launcher": ("nvidia_resiliency_ext.fault_tolerance.launcher", "nvidia-resiliency-ext"),
}
"""Programs that run agents: the module of their ``main``, and the package that contains it."""


class Run(Command):
    """Run torchrun and deliver its events, on torch 2.2 and newer.

    All arguments after "run" are torchrun's; "torchrun --help" shows them. Torch 2.8 and newer load the bridge by
    themselves (with plain "torchrun ...", if an exporter is configured); older versions need this command.
    "run ft_launcher ..." runs the launcher of NVIDIA's resiliency extension, which contains a copy of torch's agent,
    instead of torchrun.

    The environment configures the exporters: OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_LOGS_EXPORTER,
    TORCHELASTIC_OTEL_DESTINATIONS. The default is OTLP to its default endpoint on this host. TORCHELASTIC_OTEL=off and
    OTEL_SDK_DISABLED=true run torchrun without the bridge. The exit status is torchrun's.
    """

    exit_codes: ClassVar = {
        0: "the job succeeded",
        1: "the job failed: a worker failed after all restarts, or the rendezvous failed",
        2: "torchrun rejects its arguments, or it is not installed",
    }
    examples = (
        "torchelastic-otel run --standalone --nproc-per-node 2 train.py --epochs 3",
        "torchelastic-otel run ft_launcher --nnodes 2 --rdzv-backend c10d --rdzv-endpoint host:29400 train.py",
        "python -m torchelastic_otel run --nnodes 2 --rdzv-backend c10d --rdzv-endpoint host:29400 -m my.training",
    )
    verbatim = True

    def prepare_parser(self, parser: argparse.ArgumentParser) -> None:
        """The usage, for the help: the arguments are torchrun's."""
        parser.usage = "torchelastic-otel run TORCHRUN_ARGUMENTS..."

    def run(self, arguments: argparse.Namespace) -> int:
        """Install the bridge, and run torchrun or the launcher that the first argument names."""
        name, rest = "torchrun", list(arguments.rest)
        # torchrun would run a script of that name in this directory
        if rest and rest[0] in LAUNCHERS and not os.path.exists(rest[0]):
            name = rest.pop(0)
        # a launcher shows it in its help and errors
        sys.argv = [os.path.join(os.path.dirname(sys.executable), name), *rest]
        module, package = LAUNCHERS[name]
        try:
            launcher = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != module.partition(".")[0]:
                raise
            raise CommandError(f"{name} is not installed in this environment; pip install {package}") from None
        install()
        launcher.main(rest)
        return 0


def install() -> None:
    """Install the bridge as configured; this command is a request for it, so ``auto`` means ``on``."""
    from torchelastic_otel.runtime import api
    from torchelastic_otel.runtime.activation import decide
    from torchelastic_otel.settings import Mode, from_environment

    settings, complaints = from_environment(os.environ)
    if settings.mode is Mode.AUTO:
        settings = replace(settings, mode=Mode.ON)
    activation = decide(os.environ, settings)
    if not activation.active:
        logger.warning("torchrun runs without torchelastic-otel: %s", activation.why)
        return
    if api.current() is not None:
        return
    for complaint in complaints:
        logger.warning("%s", complaint)
    api.install(settings=settings, watch_torch=True)
