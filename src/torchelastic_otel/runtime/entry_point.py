"""The entry point in group ``torchrun.handlers``, which torch loads (torch 2.6 and newer).

Guarantees: loading this costs a worker well under a millisecond, starts no thread, opens no file and imports no SDK.
Whether to be active is decided in an agent, when it is about to create its rendezvous.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NoReturn


def torchrun_handler() -> Callable[[object], NoReturn]:
    """The entry point: wait until this process becomes an agent; torch expects a rendezvous backend in return."""
    if os.environ.get("TORCHELASTIC_OTEL", "").strip().lower() != "off":
        arm_at_first_rendezvous()
    return _no_backend


def arm_at_first_rendezvous(elastic: str | None = None) -> Callable[[], None]:
    """Install what the environment configures if this process turns out to be an agent.

    Args:
        elastic: The package of the rendezvous; by default torch's own.

    Returns:
        Reverts it.
    """
    from torchelastic_otel.instrument.arming import TORCH_ELASTIC, at_first_rendezvous

    elastic = elastic or TORCH_ELASTIC
    return at_first_rendezvous(lambda: _arm(elastic), elastic, _on_refused)


def _on_refused() -> None:
    from torchelastic_otel.runtime import api

    installation = api.current()
    if installation is not None:
        installation.load_exporters()


def _arm(elastic: str) -> Callable[[str], None] | None:
    from torchelastic_otel.runtime.api import install_from_environment

    installation = install_from_environment(elastic)
    return None if installation is None else installation.check_destination


def _no_backend(params: object) -> NoReturn:
    raise ValueError(
        "torchelastic_otel is no rendezvous backend: it observes the one you use. Use --rdzv-backend c10d (or static)"
    )
