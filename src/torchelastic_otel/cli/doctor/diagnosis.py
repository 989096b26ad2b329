"""The checks of ``doctor``, as data: each is a function that adds its findings and problems to the report.

Guarantees: nothing is delivered, adopted or changed (except that the spool directory is created, as an agent would
create it); torch is restored; a check that fails is a problem in the report, not a traceback.
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
from typing import TYPE_CHECKING, Any, Final, NoReturn

from torchelastic_otel.cli.command import counted
from torchelastic_otel.cli.doctor.masking import Masks
from torchelastic_otel.cli.doctor.report import Diagnosis
from torchelastic_otel.runtime.activation import Activation, decide
from torchelastic_otel.settings import SETTINGS, Mode, Settings, from_environment
from torchelastic_otel.units import NS_PER_S

if TYPE_CHECKING:
    from torchelastic_otel.cli.spool_inventory import SpoolEntry

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
    """Run all checks.

    Args:
        environ: The process environment (exporters read it themselves).
        timeout_s: The time limit for the response of one endpoint, seconds.

    Returns:
        A :class:`Diagnosis` as a dictionary, without secrets.
    """
    found = Diagnosis()
    masks = Masks(environ)
    settings, complaints = from_environment(environ)
    activation = decide(environ, settings)
    found.problems += complaints
    found.environment = masks.variables
    with _warnings_to(found.problems):
        _check_activation(found, settings, activation)
        from torchelastic_otel.cli.doctor import endpoints

        checks: tuple[tuple[str, Callable[[], None]], ...] = (
            ("versions", lambda: _check_versions(found)),
            ("hooks", lambda: _check_hooks(found)),
            ("spool", lambda: _check_spool(found, settings)),
            ("exporters", lambda: endpoints.check(found, environ, settings, activation, timeout_s)),
        )
        for name, check in checks:
            try:
                check()
            except Exception as error:  # noqa: BLE001 - the other checks must run all the same
                found.problems.append(f"the check of the {name} failed: {type(error).__name__}: {error}")
    found.problems = list(dict.fromkeys(found.problems))
    report: dict[str, Any] = masks.everywhere(asdict(found))
    return report


@contextmanager
def _warnings_to(problems: list[str]) -> Iterator[None]:
    """Add this package's warnings to the report."""
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


def _check_versions(found: Diagnosis) -> None:
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
            "torchrun does not find the bridge: this package is importable but not installed; pip install it"
        )


def _check_activation(found: Diagnosis, settings: Settings, activation: Activation) -> None:
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
        text = f"agents are not instrumented: {activation.why}"
        (found.notes if activation.refused else found.problems).append(text)


def _check_hooks(found: Diagnosis) -> None:
    from torchelastic_otel.export.destinations import Registry
    from torchelastic_otel.ingest.queue import IngestQueue
    from torchelastic_otel.instrument.events_hook import TorchHooks, torch_version

    if found.versions.get("torch") is None:
        found.notes.append("torch is not installed here: no agent can be instrumented; flush, replay and doctor work")
        return
    try:
        importlib.import_module("torch.distributed.elastic.rendezvous")
    except Exception as error:  # noqa: BLE001 - an import of torch fails in many ways
        found.problems.append(f"torch cannot be imported: {type(error).__name__}: {error}")
        return
    found.versions["torch"] = torch_version()
    # nothing records between install and uninstall
    hooks = TorchHooks(IngestQueue(_reject_records), Registry().local_names(), lambda name: None)
    try:
        with _warnings_to([]):  # each hook has its own report
            hooks.install()
    finally:
        hooks.uninstall()
    found.hooks = [{"name": each.name, "fits": each.fits, "trouble": each.trouble} for each in hooks.reports]
    found.problems += [
        f"hook {each.name!r} does not fit torch {found.versions['torch']} and is disabled: {each.trouble}"
        for each in hooks.reports
        if each.trouble
    ]


def _reject_records() -> NoReturn:
    raise NotImplementedError("doctor records nothing")


def _check_spool(found: Diagnosis, settings: Settings) -> None:
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
            f"the disk of {directory} has {found.spool['free_bytes']} bytes free, less than one spool may need"
        )
    for entry in spool_inventory.list_spools(directory):
        found.spool["spools"].append(
            {
                "file": entry.path.name,
                "live": entry.live,
                "host": entry.host_name,
                "pid": entry.pid,
                "run": entry.run_id,
                "events": entry.events,
                "cursors": {
                    name: {
                        "pending": cursor.pending,
                        "delivered": cursor.delivered,
                        "rejected": cursor.rejected,
                        "set_aside": cursor.quarantined,
                        "dropped": cursor.dropped,
                    }
                    for name, cursor in entry.cursors.items()
                },
                "trouble": entry.error,
            }
        )
        found.problems += _spool_problems(entry)
    sizes, corrupt = spool_inventory.delivered_sizes(directory), spool_inventory.corrupt_files(directory)
    found.spool["delivered"] = {"spools": len(sizes), "bytes": sum(sizes)}
    found.spool["corrupt"] = [path.name for path in corrupt]
    found.problems += [f"{path} is corrupt and quarantined; its events are not delivered" for path in corrupt]


def _spool_problems(entry: SpoolEntry) -> Iterator[str]:
    if entry.error:
        yield entry.error
    if entry.pending and not entry.live:
        pending = ", ".join(f"{count} for {name}" for name, count in entry.pending.items())
        yield f"{entry.label} ended with pending events ({pending}): run 'torchelastic-otel flush'"
    for name, cursor in entry.cursors.items():
        if cursor.dropped:
            dropped = counted(cursor.dropped, "event")
            yield f"{entry.label}: {dropped} dropped before {name} received them: the spool was full"
        if cursor.quarantined or cursor.rejected:
            rejected = counted(cursor.quarantined + cursor.rejected, "event")
            yield f"{entry.label}: {rejected} for {name} rejected or quarantined"
