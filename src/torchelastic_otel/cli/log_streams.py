"""Recorded streams on their way: each in a spool of its own, as if its agent had just written it.

What always holds: the spool of a content has a name of its own, so that a replay that was cut short is completed
and never doubled; the events carry what their agent knew, and nothing of the process that replays.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torchelastic_otel.cli.command import PROGRAM
from torchelastic_otel.cli.delivery import make_pipeline, try_until
from torchelastic_otel.cli.doctor.masking import Masks
from torchelastic_otel.cli.log_captures import Capture
from torchelastic_otel.errors import CommandError, SpoolError
from torchelastic_otel.export.destinations import Exporter
from torchelastic_otel.model.event import ElasticEvent, Origin
from torchelastic_otel.processing.enrichment import AgentContext, enrich
from torchelastic_otel.settings import Settings
from torchelastic_otel.spool import adoption, store
from torchelastic_otel.spool.directory import LOCK_SUFFIX, SPOOL_SUFFIX
from torchelastic_otel.spool.location import spool_directory
from torchelastic_otel.spool.lock import acquire
from torchelastic_otel.spool.records import CursorState, row_bytes
from torchelastic_otel.torch_events.parser import parse
from torchelastic_otel.units import NS_PER_S


@dataclass(slots=True)
class Stream:
    """One file on its way.

    Attributes:
        file: Its name.
        capture: What it holds.
        events: Its events as capture would have kept them.
        run_id: The run of the last of them; empty where none tells.
        cursors: How far each exporter got, once delivery has ended.
    """

    file: str
    capture: Capture
    events: list[ElasticEvent]
    run_id: str
    cursors: dict[str, CursorState] | None = None


def stream_of(file: str, capture: Capture) -> Stream:
    """A file's stream, not yet on its way."""
    now_ns = time.time_ns()
    standing = AgentContext(restart_count=0)
    events = []
    for each in capture.recorded:
        event = parse(each.text, each.destination, time_ns=each.time_ns, observed_ns=now_ns)
        standing, event = enrich(standing, event)
        events.append(event)
    return Stream(file, capture, events, standing.run_id or "")


def deliver(
    streams: Sequence[Stream], settings: Settings, exporters: Sequence[Exporter], timeout_s: float
) -> tuple[dict[str, str], Path | None]:
    """Spool and deliver.

    Returns:
        Each exporter's trouble, by its name, and the spool directory; ``None`` where there is none.

    Raises:
        CommandError: A spool cannot be made, or an exporter.
    """
    directory = spool_directory(settings, lambda what: print(f"{PROGRAM} replay: {what}", file=sys.stderr))
    pipeline = make_pipeline(exporters, settings, directory)
    owned: list[adoption.OwnedSpool] = []
    spools: list[store.Spool] = []
    try:
        for stream in streams:
            spool = _spool(stream, settings, directory, owned)
            spools.append(spool)
            pipeline.subscribe({event.destination for event in stream.events})
            pipeline.add(spool, _origin(stream), continues=False)
            try:
                _keep(spool, stream.events)
            except SpoolError as error:
                raise CommandError(f"{stream.file}: {error}", exit_code=1) from None
            pipeline.wake()
        try_until(pipeline.flush, timeout_s)
        masks = Masks(os.environ)
        troubles = {state.name: masks.text(state.error) for state in pipeline.states}
    finally:
        pipeline.stop(NS_PER_S)
        for stream, spool in zip(streams, spools, strict=False):  # fewer spools where one could not be made
            # of an earlier replay there may be cursors of other exporters, which were not asked for now
            names = {exporter.name for exporter in exporters}
            stream.cursors = {name: cursor for name, cursor in spool.cursors().items() if name in names}
        for each in owned:
            each.release()
    return troubles, directory


def _spool(stream: Stream, settings: Settings, directory: Path | None, owned: list[adoption.OwnedSpool]) -> store.Spool:
    """The stream's spool: new, or the one that an earlier replay of the same content left."""
    # large enough to hold all of it whatever the receiver does: nothing goes to make room
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


def _keep(spool: store.Spool, events: Sequence[ElasticEvent]) -> None:
    """Append in as few transactions as are allowed; what an earlier replay has kept is not kept again."""
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
    # the node that replays is not the job's: only what the person who replays says of it holds
    said = {name: os.environ[name] for name in ("OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES") if name in os.environ}
    return Origin(
        id=stream.capture.digest,
        host_name=stream.capture.host_name,
        pid=stream.capture.pid,
        started_ns=times[0] if times else time.time_ns(),
        environment=said,
    )
