"""``replay``: recorded streams through the same spool and exporters as live ones.

What always holds: one file is one agent, with the host and pid that its events name; the same content gives the
same ``log.record.uid`` every time; what cannot be delivered now stays in the spool directory for ``flush``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from torchelastic_otel import semconv
from torchelastic_otel.cli.command import PROGRAM, Command, seconds
from torchelastic_otel.errors import CommandError

if TYPE_CHECKING:
    from torchelastic_otel.cli.log_captures import Capture
    from torchelastic_otel.cli.log_streams import Stream

_UNKNOWN: Final = (semconv.UNKNOWN_EVENT, semconv.RENDEZVOUS_MESSAGE)
_MAX_NAMED: Final = 20
"""Bad lines named one by one for each file; the rest is counted: a job's whole stderr may be among them."""


class Replay(Command):
    """Deliver recorded event streams, as if their agents ran now.

    A file holds what one agent recorded: captures, one {"t": seconds, "dest": destination, "event": event} a line, or
    torch's own JSON lines as "torchrun --event-log-handler console" writes them to stderr, also with other text among
    them; plain or gzip. "-" is stdin. A line that is no event is named with its file and number and skipped. Events
    keep their own times and get the log.record.uid they get at every replay, so that a backend can tell repeats.
    """

    exit_codes: ClassVar = {
        0: "everything is delivered",
        1: "something is left (it stays in the spool directory; see flush), was refused, or --strict met a bad line",
        2: "wrong option or setting, a file that cannot be read, or nothing to deliver to",
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
            help="deliver there (otlp, console, file, ...; may be given again) and not where the environment says",
        )
        parser.add_argument("--strict", action="store_true", help="stop at the first bad line; nothing is delivered")
        parser.add_argument(
            "--timeout", type=seconds, default=10.0, metavar="S", help="try for at most S seconds (default: 10)"
        )
        parser.add_argument("--json", action="store_true", help="the summary as one JSON object on stdout")

    def run(self, arguments: argparse.Namespace) -> int:
        """Read, spool, deliver, tell."""
        import os

        from torchelastic_otel.cli.delivery import exporters_asked_for, settings_in_force
        from torchelastic_otel.cli.log_streams import deliver, stream_of

        captures = _read_all(arguments.files, arguments.strict)
        settings = settings_in_force(self.name)
        exporters = exporters_asked_for(os.environ, settings, arguments.destination)
        streams = [stream_of(name, capture) for name, capture in captures]
        troubles, directory = deliver(streams, settings, exporters, arguments.timeout)
        result = _result(streams, troubles, directory)
        print(json.dumps(result) if arguments.json else _render(result), flush=True)
        return 0 if result["complete"] else 1


def _read_all(files: Sequence[str], strict: bool) -> list[tuple[str, Capture]]:
    """Every file; a content that comes twice is one agent and is taken once."""
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
        for bad in capture.bad[:_MAX_NAMED]:
            print(f"{PROGRAM} replay: {shown}:{bad.number}: {bad.why}; skipped", file=sys.stderr)
        if len(capture.bad) > _MAX_NAMED:
            print(f"{PROGRAM} replay: {shown}: {len(capture.bad) - _MAX_NAMED} more such lines", file=sys.stderr)
        if capture.digest in captures:
            print(f"{PROGRAM} replay: {shown} is the same as {captures[capture.digest][0]}; skipped", file=sys.stderr)
            continue
        captures[capture.digest] = (shown, capture)
    return list(captures.values())


def _result(streams: Sequence[Stream], troubles: dict[str, str], directory: Path | None) -> dict[str, Any]:
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
            name: trouble or "no answer in time"
            for name, trouble in troubles.items()
            if any(file["exporters"].get(name, {}).get("left") for file in files)  # type: ignore[attr-defined]
        },
        "directory": None if directory is None else str(directory),
        "files": files,
    }


def _render(result: dict[str, Any]) -> str:
    lines = []
    for file in result["files"]:
        counts = ", ".join(f"{name} {count['delivered']}" for name, count in file["exporters"].items())
        run = f" run {file['run']}" if file["run"] else ""
        lines.append(
            f"{file['file']}: {file['host']} pid {file['pid'] or '?'}{run}: {file['events']} events;"
            f" delivered: {counts}" + (f"; {file['bad_lines']} bad lines skipped" if file["bad_lines"] else "")
        )
    lines.append("")
    for name, count in result["events"].items():
        lines.append(f"  {count:>6}  {name}" + ("  <- unknown to this version" if name in _UNKNOWN else ""))
    lines.append("")
    total = sum(result["events"].values())
    if result["refused"]:
        lines.append(f"{result['refused']} events were refused by the receiver")
    if result["left"]:
        why = "; ".join(f"{name}: {trouble}" for name, trouble in result["why"].items())
        waiting = (
            f"they wait in {result['directory']}, 'torchelastic-otel flush' delivers them"
            if result["directory"]
            else "they are lost: there is no spool directory"
        )
        lines.append(f"{result['left']} of {total} events are left ({why}); {waiting}")
    if result["complete"]:
        lines.append(f"all {total} events are delivered")
    return "\n".join(lines)
