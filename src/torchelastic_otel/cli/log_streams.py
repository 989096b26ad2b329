"""Recorded streams as spools: each in one of its own, as if its agent had just written it.

Guarantees: the spool's name is the digest of the content, so that an interrupted replay is completed and never
duplicated; the events have the context of their agent, and nothing of the process that replays.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torchelastic_otel.cli.command import Command
from torchelastic_otel.cli.delivery import retry_until, start_pipeline
from torchelastic_otel.cli.doctor.masking import Masks
from torchelastic_otel.cli.log_captures import Capture
from torchelastic_otel.errors import CommandError, SpoolError
from torchelastic_otel.export.destinations import Exporter
from torchelastic_otel.model.event import ElasticEvent, Origin
from torchelastic_otel.settings import Settings
from torchelastic_otel.spool import adoption, store
from torchelastic_otel.spool.directory import LOCK_SUFFIX, SPOOL_SUFFIX
from torchelastic_otel.spool.location import spool_directory
from torchelastic_otel.spool.lock import acquire
from torchelastic_otel.spool.records import CursorState, row_bytes
from torchelastic_otel.units import NS_PER_S


@dataclass(slots=True)
class Stream:
    """One recorded stream.

    Attributes:
        file: Its name.
        capture: Its content.
        events: Its events, as an agent would have stored them.
        run_id: The run of the last of them; empty if unknown.
        cursors: The progress of each exporter, after the delivery.
    """

    file: str
    capture: Capture
    events: list[ElasticEvent]
    run_id: str
    cursors: dict[str, CursorState] | None = None


def make_stream(file: str, capture: Capture) -> Stream:
    """The stream of a file."""
    events, context = capture.events(time.time_ns())
    return Stream(file, capture, events, context.run_id or "")


def deliver(
    command: Command, streams: Sequence[Stream], settings: Settings, exporters: Sequence[Exporter], timeout_s: float
) -> tuple[dict[str, str], Path | None]:
    """Spool and deliver.

    Returns:
        The last error of each exporter, by its name, and the spool directory; ``None`` if there is none.

    Raises:
        CommandError: A spool cannot be made, or an exporter.
    """
    directory = spool_directory(settings, command.warn)
    pipeline = start_pipeline(command, exporters, settings, directory)
    owned: list[adoption.OwnedSpool] = []
    spools: list[store.Spool] = []
    try:
        for stream in streams:
            spool = _spool(stream, settings, directory, owned)
            spools.append(spool)
            pipeline.subscribe({event.destination for event in stream.events})
            pipeline.add(spool, _origin(stream), continues=False)
            try:
                _append(spool, stream.events)
            except SpoolError as error:
                raise CommandError(f"{stream.file}: {error}", exit_code=1) from None
            pipeline.wake()
        retry_until(pipeline.flush, timeout_s)
        masks = Masks(os.environ)
        errors = {state.name: masks.text(state.error) for state in pipeline.states}
    finally:
        pipeline.stop(NS_PER_S)
        for stream, spool in zip(streams, spools, strict=False):  # fewer spools if one could not be made
            # an earlier replay may have left cursors of other exporters
            names = {exporter.name for exporter in exporters}
            stream.cursors = {name: cursor for name, cursor in spool.cursors().items() if name in names}
        for each in owned:
            each.release()
    return errors, directory


def _spool(stream: Stream, settings: Settings, directory: Path | None, owned: list[adoption.OwnedSpool]) -> store.Spool:
    """The stream's spool: new, or the one of an earlier replay of the same content."""
    # large enough for the whole stream: no row is dropped, whatever the receiver does
    max_bytes = max(settings.spool_max_bytes, 8 * sum(len(each.text) + 1_024 for each in stream.capture.recorded))
    if directory is None:
        return store.create_in_memory(max_bytes)
    path = directory / (stream.capture.digest + SPOOL_SUFFIX)
    try:
        if path.exists():
            ownership = acquire(path.with_suffix(LOCK_SUFFIX))
            if ownership is None:
                raise CommandError(
                    f"{stream.file}: another process is delivering the same content ({path})", exit_code=1
                )
            try:
                owned.append(adoption.OwnedSpool(store.open_file(path, max_bytes), path, ownership))
            except SpoolError:
                ownership.release()
                raise
        else:
            owned.append(adoption.create(directory, stream.capture.digest, max_bytes))
    except (SpoolError, OSError) as error:
        raise CommandError(f"{stream.file}: {error}", exit_code=1) from None
    return owned[-1].spool


def _append(spool: store.Spool, events: Sequence[ElasticEvent]) -> None:
    """Append in as few transactions as possible, without what an earlier replay has stored."""
    rows: list[tuple[str, str]] = []
    size = 0
    for event in events[spool.last_sequence :]:
        row = (event.destination, event.to_json())
        if rows and size + row_bytes(*row) > spool.append_limit:
            spool.append(rows)
            rows, size = [], 0
        rows.append(row)
        size += row_bytes(*row)
    if rows:
        spool.append(rows)


def _origin(stream: Stream) -> Origin:
    times = [event.time_ns for event in stream.events if event.time_ns is not None]
    # the replaying node is not the job's: only the user's resource settings apply
    names = ("OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES")
    return Origin(
        id=stream.capture.digest,
        host_name=stream.capture.host_name,
        pid=stream.capture.pid,
        started_ns=times[0] if times else time.time_ns(),
        environment={name: os.environ[name] for name in names if name in os.environ},
    )
