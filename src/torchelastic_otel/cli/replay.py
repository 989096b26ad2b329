"""``replay``: export recorded streams through a spool, like live ones.

Guarantees: one file is one agent, with the host and pid in its events; the same content gets the same
``log.record.uid`` every time; what cannot be delivered now stays in the spool directory for ``flush``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from torchelastic_otel import semconv
from torchelastic_otel.cli.command import Command, add_timeout, counted, process_label
from torchelastic_otel.errors import CommandError

if TYPE_CHECKING:
    from torchelastic_otel.cli.log_captures import Capture
    from torchelastic_otel.cli.log_streams import Stream

_UNKNOWN: Final = (semconv.UNKNOWN_EVENT, semconv.RENDEZVOUS_MESSAGE)
_MAX_REPORTED: Final = 20
"""Bad lines of a file that are reported one by one; the rest is counted: the file may be a job's whole stderr."""


class Replay(Command):
    """Deliver recorded event streams, as if their agents ran now.

    A file contains the events of one agent: captures, one {"t": seconds, "dest": destination, "event": event} in each
    line, or torch's own JSON lines as "torchrun --event-log-handler console" writes them to stderr, also among other
    text; plain or gzip. "-" is stdin. A line that is not an event is reported with its file and number, and skipped.
    Events keep their own times and have the same log.record.uid at every replay, by which a backend can recognise
    duplicates.
    """

    exit_codes: ClassVar = {
        0: "everything is delivered",
        1: "something is pending (it stays in the spool: see flush), was rejected, or --strict found a bad line",
        2: "a wrong option or setting, a file that cannot be read, or no exporter",
        130: "interrupted",
    }
    examples = (
        "torchelastic-otel replay --destination console agent-0.jsonl",
        "OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4317 torchelastic-otel replay captures/*.jsonl.gz",
    )

    def prepare_parser(self, parser: argparse.ArgumentParser) -> None:
        """The options."""
        parser.add_argument("files", nargs="+", metavar="FILE", help="a recorded stream; - for stdin")
        parser.add_argument(
            "--destination",
            action="append",
            default=[],
            metavar="NAME",
            help="deliver to this destination (otlp, console, file, ...), not to the configured ones; may be repeated",
        )
        parser.add_argument("--strict", action="store_true", help="stop at the first bad line and deliver nothing")
        add_timeout(parser, 10.0, "try for at most S seconds")
        parser.add_argument("--json", action="store_true", help="the summary as one JSON object on stdout")

    def run(self, arguments: argparse.Namespace) -> int:
        """Read, store, deliver and report."""
        from torchelastic_otel.cli.delivery import load_settings, resolve_exporters
        from torchelastic_otel.cli.log_streams import deliver, make_stream

        captures = self._read_all(arguments.files, arguments.strict)
        settings = load_settings(self)
        exporters = resolve_exporters(os.environ, settings, arguments.destination)
        streams = [make_stream(name, capture) for name, capture in captures]
        errors, directory = deliver(self, streams, settings, exporters, arguments.timeout)
        result = _result(streams, errors, directory)
        print(json.dumps(result) if arguments.json else _render(result), flush=True)
        return 0 if result["complete"] else 1

    def _read_all(self, files: Sequence[str], strict: bool) -> list[tuple[str, Capture]]:
        """Every file; the same content twice is one agent."""
        from torchelastic_otel.cli.log_captures import read
        from torchelastic_otel.errors import UnreadableError

        captures: dict[str, tuple[str, Capture]] = {}
        for name in files:
            shown = "<stdin>" if name == "-" else name
            try:
                capture = read(sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes())
            except OSError as error:
                raise CommandError(f"{shown}: {error.strerror or error}") from None
            except UnreadableError as error:
                raise CommandError(f"{shown}: {error}") from None
            if strict and capture.bad:
                bad = capture.bad[0]
                raise CommandError(f"{shown}:{bad.number}: {bad.why}; nothing was delivered (--strict)", exit_code=1)
            for bad in capture.bad[:_MAX_REPORTED]:
                self.warn(f"{shown}:{bad.number}: {bad.why}; skipped")
            if len(capture.bad) > _MAX_REPORTED:
                self.warn(f"{shown}: {len(capture.bad) - _MAX_REPORTED} more such lines")
            if capture.digest in captures:
                self.warn(f"{shown} is the same as {captures[capture.digest][0]}; skipped")
                continue
            captures[capture.digest] = (shown, capture)
        return list(captures.values())


def _result(streams: Sequence[Stream], errors: dict[str, str], directory: Path | None) -> dict[str, Any]:
    files, names = [], Counter[str]()
    for stream in streams:
        names.update(event.name for event in stream.events)
        cursors = stream.cursors or {}
        files.append(
            {
                "file": stream.file,
                "host": stream.capture.host_name,
                "pid": stream.capture.pid,
                "run": stream.run_id,
                "origin": stream.capture.digest,
                "events": len(stream.events),
                "bad_lines": len(stream.capture.bad),
                "exporters": {
                    name: {
                        "delivered": cursor.delivered,
                        "rejected": cursor.rejected,
                        "set_aside": cursor.quarantined,
                        "dropped": cursor.dropped,
                        "left": cursor.pending,
                    }
                    for name, cursor in cursors.items()
                },
            }
        )
    counts = [count for file in files for count in file["exporters"].values()]  # type: ignore[attr-defined]
    left = sum(count["left"] for count in counts)
    refused = sum(count["rejected"] + count["set_aside"] + count["dropped"] for count in counts)
    return {
        "complete": not left and not refused,
        "events": dict(sorted(names.items())),
        "unknown": sum(names[name] for name in _UNKNOWN),
        "left": left,
        "refused": refused,
        "why": {
            name: error or "no response in time"
            for name, error in errors.items()
            if any(file["exporters"].get(name, {}).get("left") for file in files)  # type: ignore[attr-defined]
        },
        "directory": None if directory is None else str(directory),
        "files": files,
    }


def _render(result: dict[str, Any]) -> str:
    lines = []
    for file in result["files"]:
        label = process_label(file["host"], file["pid"], file["run"], "unknown")
        counts = ", ".join(f"{name} {count['delivered']}" for name, count in file["exporters"].items())
        skipped = f"; {file['bad_lines']} bad lines skipped" if file["bad_lines"] else ""
        lines.append(f"{file['file']}: {label}: {file['events']} events; delivered: {counts}{skipped}")
    lines.append("")
    for name, count in result["events"].items():
        lines.append(f"  {count:>6}  {name}" + ("  <- unknown to this version" if name in _UNKNOWN else ""))
    lines.append("")
    total = sum(result["events"].values())
    if result["refused"]:
        lines.append(f"{counted(result['refused'], 'event')} rejected")
    if result["left"]:
        why = "; ".join(f"{name}: {error}" for name, error in result["why"].items())
        where = (
            f"in {result['directory']}, 'torchelastic-otel flush' delivers them"
            if result["directory"]
            else "they are lost: there is no spool directory"
        )
        lines.append(f"{result['left']} of {total} events are left ({why}); {where}")
    if result["complete"]:
        lines.append(f"all {total} events are delivered")
    return "\n".join(lines)
