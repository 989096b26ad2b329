"""What ``doctor`` looks at, as data: each look is a function that tells what is, and what is wrong with it.

What always holds: nothing is delivered, adopted or changed (but for the spool folder, made as an agent would make
it); torch is left as found; a look that fails is a problem in the report and no traceback.
"""

from __future__ import annotations

import importlib
import logging
import os
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from importlib import metadata
from typing import Any, Final, NoReturn

from torchelastic_otel.cli.doctor.masking import Masks
from torchelastic_otel.cli.doctor.report import Diagnosis
from torchelastic_otel.runtime.activation import Activation, decide
from torchelastic_otel.settings import SETTINGS, Mode, Settings, from_environment
from torchelastic_otel.units import NS_PER_S

_PACKAGES: Final = (
    "torch",
    "opentelemetry-api",
    "opentelemetry-sdk",
    "opentelemetry-exporter-otlp-proto-grpc",
    "opentelemetry-exporter-otlp-proto-http",
    "opentelemetry-instrumentation",
    "grpcio",
    "requests",
    "protobuf",
)
_ENTRY_POINTS: Final = ("torchrun.handlers", "opentelemetry_instrumentor")


def diagnose(environ: Mapping[str, str], timeout_s: float) -> dict[str, Any]:
    """Look at everything.

    Args:
        environ: The process environment (exporters read it themselves).
        timeout_s: How long one endpoint may take to answer, seconds.

    Returns:
        A :class:`Diagnosis` as a dictionary, without secrets.
    """
    found = Diagnosis()
    masks = Masks(environ)
    settings, complaints = from_environment(environ)
    activation = decide(environ, settings)
    found.problems += complaints
    found.environment = masks.shown
    with _warnings_to(found.problems):
        _look_at_activation(found, settings, activation)
        from torchelastic_otel.cli.doctor import endpoints

        looks: tuple[tuple[str, Callable[[], None]], ...] = (
            ("versions", lambda: _look_at_versions(found)),
            ("hooks", lambda: _look_at_hooks(found)),
            ("spool", lambda: _look_at_spool(found, settings)),
            ("exporters", lambda: endpoints.look_at(found, environ, settings, activation, timeout_s)),
        )
        for name, look in looks:
            try:
                look()
            except Exception as error:  # noqa: BLE001 - a doctor must tell about the rest all the same
                found.problems.append(f"{name} could not be looked at: {type(error).__name__}: {error}")
    found.problems = list(dict.fromkeys(found.problems))
    report: dict[str, Any] = masks.everywhere(asdict(found))
    return report


@contextmanager
def _warnings_to(problems: list[str]) -> Iterator[None]:
    """What our own parts would log as warnings belongs into the report."""
    logger = logging.getLogger("torchelastic_otel")

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            problems.append(record.getMessage())

    handler, propagate = Handler(logging.WARNING), logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate


def _look_at_versions(found: Diagnosis) -> None:
    from torchelastic_otel.version import __version__

    found.versions = {"torchelastic-otel": __version__, "python": platform.python_version()}
    found.versions["platform"] = platform.platform()
    for package in _PACKAGES:
        try:
            found.versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found.versions[package] = None
    for group in _ENTRY_POINTS:
        points = metadata.entry_points(group=group)
        found.ways_in[group] = any(point.value.startswith("torchelastic_otel.") for point in points)
    if not found.ways_in["torchrun.handlers"]:
        found.problems.append(
            "torchrun does not find the bridge: this package is importable and not installed; pip install it"
        )


def _look_at_activation(found: Diagnosis, settings: Settings, activation: Activation) -> None:
    found.activation = {
        "active": activation.active,
        "why": activation.why,
        "exporters": {signal.value: list(names) for signal, names in activation.exporters.items()},
        "destinations": list(activation.destinations),
        "refused": activation.refused,
    }
    for setting in SETTINGS:
        value = getattr(settings, setting.field)
        if isinstance(value, Mode):
            value = value.value
        elif setting.field.endswith("_ns"):
            value = value / NS_PER_S
        found.settings[setting.variable] = value if value or value == 0 else setting.default
    if not activation.active:
        told = f"agents are not watched: {activation.why}"
        (found.notes if activation.refused else found.problems).append(told)


def _look_at_hooks(found: Diagnosis) -> None:
    from torchelastic_otel.export.destinations import Registry
    from torchelastic_otel.ingest.queue import IngestQueue
    from torchelastic_otel.instrument.events_hook import TorchHooks, torch_version

    if found.versions.get("torch") is None:
        found.notes.append("torch is not installed here: no agent can be watched; flush, replay and doctor work")
        return
    try:
        importlib.import_module("torch.distributed.elastic.rendezvous")
    except Exception as error:  # noqa: BLE001 - a torch that cannot be imported fails in many ways
        found.problems.append(f"torch cannot be imported: {type(error).__name__}: {error}")
        return
    found.versions["torch"] = torch_version()
    # the hooks are tried, never fed: nothing records between install and uninstall
    inlet = IngestQueue(_keep_nothing)
    hooks = TorchHooks(inlet, Registry().local_names(), lambda name: None)
    try:
        with _warnings_to([]):  # each hook is told by itself
            hooks.install()
    finally:
        hooks.uninstall()
    found.hooks = [{"name": each.name, "fits": each.fits, "trouble": each.trouble} for each in hooks.reports]
    found.problems += [
        f"hook {each.name!r} does not fit torch {found.versions['torch']} and is off: {each.trouble}"
        for each in hooks.reports
        if each.trouble
    ]


def _keep_nothing() -> NoReturn:
    raise NotImplementedError("doctor records nothing")


def _look_at_spool(found: Diagnosis, settings: Settings) -> None:
    from torchelastic_otel.cli import spool_inventory
    from torchelastic_otel.spool.location import spool_directory

    directory = spool_directory(settings, found.problems.append)
    found.spool = {"directory": None if directory is None else str(directory), "spools": []}
    if directory is None:
        return
    disk = os.statvfs(directory)
    found.spool["free_bytes"] = disk.f_bavail * disk.f_frsize
    if found.spool["free_bytes"] < settings.spool_max_bytes:
        found.problems.append(
            f"the disk of {directory} has {found.spool['free_bytes']} bytes left, less than one spool may take"
        )
    for view in spool_inventory.survey(directory):
        found.spool["spools"].append(
            {
                "file": view.path.name,
                "live": view.live,
                "host": view.host_name,
                "pid": view.pid,
                "run": view.run_id,
                "events": view.events,
                "cursors": {
                    name: {
                        "pending": cursor.pending,
                        "delivered": cursor.delivered,
                        "rejected": cursor.rejected,
                        "set_aside": cursor.quarantined,
                        "dropped": cursor.dropped,
                    }
                    for name, cursor in view.cursors.items()
                },
                "trouble": view.trouble,
            }
        )
        found.problems += _wrong_with(view)
    history = spool_inventory.retired(directory)
    found.spool["delivered"] = {"spools": history.delivered, "bytes": history.delivered_bytes}
    found.spool["corrupt"] = [path.name for path in history.corrupt]
    found.problems += [f"{path} is corrupt and was set aside; its events are not delivered" for path in history.corrupt]


def _wrong_with(view: Any) -> Iterator[str]:
    if view.trouble:
        yield view.trouble
    if view.pending and not view.live:
        waiting = ", ".join(f"{count} for {name}" for name, count in view.pending.items())
        yield f"{view.whose} ended and left events ({waiting}): run 'torchelastic-otel flush'"
    for name, cursor in view.cursors.items():
        if cursor.dropped:
            yield f"{view.whose}: {cursor.dropped} events were dropped before {name} got them: the spool was full"
        if cursor.quarantined or cursor.rejected:
            yield f"{view.whose}: the receiver of {name} refused {cursor.quarantined + cursor.rejected} events"
