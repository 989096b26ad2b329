"""``torchelastic-otel demo``: run a real job, show its events as they arrive, its history, and what is missing.

Exit status: 0 everything arrived and the job succeeded; 1 something is missing or the job failed; 2 it cannot be
run with these options, with one line that explains what to do; 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import shutil
import socket
import tempfile
import threading
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO
from urllib.parse import urlsplit

from torchelastic_otel.demo.job import WORKERS_A_NODE, Job, Node, launcher_for
from torchelastic_otel.errors import CannotRunError

if TYPE_CHECKING:
    from torchelastic_otel.testing.received import ReceivedRecord

NODE_NAMES = ("demo-node-a", "demo-node-b")
PROTOCOLS = ("grpc", "http/protobuf")
ENTRY_POINT_GROUP = "torchrun.handlers"
_DISTRIBUTION = "torchelastic-otel"
_LOG_LINES = 15
DescribeHistory = Callable[[Sequence[Path]], str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        "--endpoint",
        metavar="URL",
        help="send to this OTLP collector, for example http://localhost:4317, instead of the embedded receiver",
    )
    parser.add_argument(
        "--protocol",
        choices=PROTOCOLS,
        help="with --endpoint: the OTLP protocol (default: http/protobuf on port 4318, else grpc)",
    )
    parser.add_argument(
        "--timeout", type=float, default=180.0, metavar="S", help="end the job after S seconds (default: 180)"
    )
    parser.add_argument("--keep", action="store_true", help="keep the job's logs and spools, and print their directory")


def run_demo(arguments: argparse.Namespace, out: TextIO, describe_history: DescribeHistory) -> int:
    """Run the demonstration.

    Args:
        arguments: What :func:`add_arguments` declared, parsed.
        out: Receives the events, the history and the comparison.
        describe_history: The history of a job from its spools as text.

    Returns:
        The exit status, see the header of this file.
    """
    screen = _Screen(out)
    try:
        if arguments.endpoint is None and arguments.protocol is not None:
            raise CannotRunError(
                "--protocol requires --endpoint; with the embedded receiver each node uses another protocol"
            )
        protocol = None if arguments.endpoint is None else protocol_for(arguments.endpoint, arguments.protocol)
        if not arguments.timeout > 0:
            raise CannotRunError(f"--timeout {arguments.timeout:g} is not allowed; give a number of seconds above 0")
        if arguments.endpoint is not None:
            _check_listener(arguments.endpoint)
        launcher = launcher_for(_torch_version())
    except CannotRunError as error:
        screen.write(f"torchelastic-otel demo: {error}")
        return 2
    directory = Path(tempfile.mkdtemp(prefix="torchelastic-otel-demo-"))
    keep = bool(arguments.keep)
    try:
        if protocol is None:
            complete = _with_receiver(launcher, directory, arguments.timeout, screen, describe_history)
        else:
            nodes = [Node(name, arguments.endpoint, protocol, remote=True) for name in NODE_NAMES]
            complete = _with_collector(launcher, directory, arguments.timeout, screen, nodes, describe_history)
        keep = keep or not complete
        return 0 if complete else 1
    except KeyboardInterrupt:
        screen.write("interrupted; the agents have been stopped")
        return 130
    finally:
        if keep:
            screen.write(f"Logs and spools are in {directory}")
        else:
            shutil.rmtree(directory, ignore_errors=True)


def _check_listener(endpoint: str) -> None:
    """Without this check the job runs for half a minute before the user learns that nothing was accepted."""
    url = urlsplit(endpoint)
    port = url.port or (443 if url.scheme == "https" else 80)
    try:
        socket.create_connection((str(url.hostname), port), timeout=5).close()
    except OSError as error:
        raise CannotRunError(f"nothing listens at {url.hostname} port {port}: {error.strerror or error}") from error


def protocol_for(endpoint: str, asked: str | None) -> str:
    """The OTLP protocol for a collector.

    Raises:
        CannotRunError: The endpoint is no ``http://`` or ``https://`` URL with a host.
    """
    try:
        parts = urlsplit(endpoint)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    if parts.scheme not in ("http", "https") or not host:
        raise CannotRunError(
            f"--endpoint {endpoint!r} is not allowed; give http://HOST:PORT or https://HOST:PORT, "
            "for example http://localhost:4317"
        )
    return asked or ("http/protobuf" if port == 4318 else "grpc")


class _Screen:
    """Whole lines to one stream, from several threads; a closed pipe (``| head``) is no error."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._lock = threading.Lock()
        self.colour = out.isatty() and not os.environ.get("NO_COLOR")

    def write(self, text: str) -> None:
        encoding = getattr(self._out, "encoding", None) or "utf-8"
        line = text.encode(encoding, "backslashreplace").decode(encoding) + "\n"
        with self._lock:
            try:
                self._out.write(line)
                self._out.flush()
            except BrokenPipeError:
                return


def _torch_version() -> str:
    try:
        version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        raise CannotRunError(
            "the demo runs real torchrun agents and torch is not installed; pip install 'torchelastic-otel[torch]'"
        ) from None
    if not any(
        point.dist is not None and point.dist.name == _DISTRIBUTION
        for point in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)
    ):
        raise CannotRunError(
            "torchelastic-otel can be imported but is not installed, so torchrun does not find its entry point; "
            "pip install it in this environment"
        )
    return version


def _with_receiver(
    launcher: list[str], directory: Path, timeout_s: float, screen: _Screen, describe_history: DescribeHistory
) -> bool:
    # gRPC is imported late: --help and wrong options do not need it
    from torchelastic_otel.demo.delivery import compare, describe, read_stored_events
    from torchelastic_otel.export.otel.console import format_line
    from torchelastic_otel.testing.otlp_receiver import OtlpReceiver

    seen: set[str] = set()

    def show(record: ReceivedRecord) -> None:
        if record.uid and record.uid in seen:
            return
        seen.add(record.uid)
        screen.write(
            format_line(
                time_ns=record.time_ns,
                severity=record.severity,
                event_name=record.event_name,
                body=str(record.body),
                attributes=record.attributes,
                resource=record.resource,
                colour=screen.colour,
            )
        )

    with OtlpReceiver(show) as receiver:
        ways = zip(NODE_NAMES, (receiver.grpc_endpoint, receiver.http_endpoint), PROTOCOLS, strict=True)
        nodes = [Node(*way) for way in ways]
        with Job(nodes, directory, launcher, _run_id(), os.environ) as job:
            _introduce(nodes, screen)
            statuses = job.wait(timeout_s)
        delivery = compare(receiver.records, read_stored_events(job.spools), NODE_NAMES)
    _show_history(job, screen, describe_history)
    for line in describe(delivery):
        screen.write(line)
    for name in delivery.silent_nodes:
        _show_log(job, name, "sent nothing", screen)
    return _succeeded(job, statuses, timeout_s, screen) and delivery.is_complete


def _with_collector(
    launcher: list[str],
    directory: Path,
    timeout_s: float,
    screen: _Screen,
    nodes: Sequence[Node],
    describe_history: DescribeHistory,
) -> bool:
    from torchelastic_otel.demo.delivery import describe_accepted, read_stored_events

    with Job(nodes, directory, launcher, _run_id(), os.environ) as job:
        _introduce(nodes, screen)
        statuses = job.wait(timeout_s)
    _show_history(job, screen, describe_history)
    protocols = {node.name: node.protocol for node in nodes}
    lines, complete = describe_accepted(read_stored_events(job.spools), protocols, nodes[0].endpoint)
    for line in lines:
        screen.write(line)
    return _succeeded(job, statuses, timeout_s, screen) and complete


def _show_history(job: Job, screen: _Screen, describe_history: DescribeHistory) -> None:
    from torchelastic_otel.demo.delivery import spools_of

    spools = [path for directory in job.spools.values() for path in spools_of(directory)]
    screen.write(f"\n{describe_history(spools)}\n")


def _introduce(nodes: Sequence[Node], screen: _Screen) -> None:
    screen.write(
        f"A torchrun job of {len(nodes)} nodes with {WORKERS_A_NODE} workers each, on this machine; half a minute. "
        "Rank 1 fails once, on purpose, and the job restarts."
    )
    for node in nodes:
        screen.write(f"  {node.name} exports by {node.protocol} to {node.endpoint}")
    screen.write("")


def _succeeded(job: Job, statuses: dict[str, int | None], timeout_s: float, screen: _Screen) -> bool:
    for name, status in statuses.items():
        if status == 0:
            continue
        how = f"was still running after {timeout_s:g} s" if status is None else f"ended with status {status}"
        _show_log(job, name, how, screen)
    return not any(status != 0 for status in statuses.values())


def _show_log(job: Job, name: str, what: str, screen: _Screen) -> None:
    screen.write(f"\nThe agent of {name} {what}; the end of its log:")
    for line in job.log(name).read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_LINES:]:
        screen.write(f"  {line}")


def _run_id() -> str:
    return f"demo-{uuid.uuid4().hex[:8]}"
