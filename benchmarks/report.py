"""What a measurement hands back, and how RESULTS.md is written from it.

What always holds: a target that was missed is printed as MISSED, beside what was measured; every section says when
and how (full or quick) it was measured, so that a section measured alone does not pass for a part of a whole run.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "RESULTS.md"
_HEADING = "## "


@dataclass(frozen=True, slots=True)
class Check:
    """One target, and what was measured.

    Attributes:
        what: What is to be reached, in words.
        target: The bound, as text with its unit.
        measured: The value, as text with its unit.
        reached: Whether it was.
    """

    what: str
    target: str
    measured: str
    reached: bool


@dataclass(slots=True)
class Section:
    """One measurement.

    Attributes:
        name: As ``--only`` names it.
        title: What it tells, for the heading.
        how: How it was measured, in sentences.
        checks: The targets.
        body: Markdown below the targets.
        profile: Text of a profile; printed under what was missed, or where it explains a number.
    """

    name: str
    title: str
    how: str
    checks: list[Check] = field(default_factory=list)
    body: list[str] = field(default_factory=list)
    profile: str = ""

    def render(self, *, quick: bool, took_s: float, load: float) -> str:
        """The section as Markdown, its heading first."""
        kind = "quick: too few samples to go by" if quick else "full"
        now = datetime.datetime.now(datetime.timezone.utc)
        lines = [
            f"{_HEADING}{self.name}: {self.title}",
            "",
            self.how,
            "",
            f"Measured {now:%Y-%m-%d %H:%M} UTC ({kind}), in {took_s:.0f} s; load average before it {load:.1f}.",
            "",
        ]
        if self.checks:
            rows = [
                (check.what, check.target, check.measured, "reached" if check.reached else "**MISSED**")
                for check in self.checks
            ]
            lines += [*table(("target", "bound", "measured", ""), rows), ""]
        lines += self.body
        if self.profile:
            lines += ["", "```text", self.profile.rstrip("\n"), "```"]
        return "\n".join(lines).rstrip("\n") + "\n"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table, its lines."""
    return [
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]


def percentile(samples: Sequence[float], share: float) -> float:
    """The value that ``share`` (0 to 1) of the samples do not exceed, by nearest rank.

    Raises:
        ValueError: There is no sample.
    """
    if not samples:
        raise ValueError("no samples: the measurement took none; run it alone with --only to see why")
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, max(0, round(share * len(ordered) + 0.5) - 1))]


def median(samples: Sequence[float]) -> float:
    """The middle one, by nearest rank."""
    return percentile(samples, 0.5)


def us(nanoseconds: float) -> str:
    """Nanoseconds as text in microseconds."""
    return f"{nanoseconds / 1000:,.1f} us" if nanoseconds < 100_000 else f"{nanoseconds / 1000:,.0f} us"


def ms(nanoseconds: float) -> str:
    """Nanoseconds as text in milliseconds."""
    return f"{nanoseconds / 1e6:,.2f} ms" if abs(nanoseconds) < 10e6 else f"{nanoseconds / 1e6:,.1f} ms"


def s(nanoseconds: float) -> str:
    """Nanoseconds as text in seconds."""
    return f"{nanoseconds / 1e9:.2f} s"


def write(sections: dict[str, str], order: Sequence[str], path: Path = RESULTS) -> None:
    """Write RESULTS.md: the sections just measured, and those that the file already has of the others."""
    kept = _read(path)
    kept.update(sections)
    texts = [kept[name].rstrip("\n") for name in order if name in kept]
    path.write_text("\n\n".join([*_head(texts), *texts]) + "\n", encoding="utf-8")


def _read(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    found: dict[str, str] = {}
    name = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith(_HEADING):
            name = line.removeprefix(_HEADING).partition(":")[0]
            found[name] = line
        elif name:
            found[name] += "\n" + line
    return found


def _head(texts: Sequence[str]) -> list[str]:
    missed = sum(text.count("**MISSED**") for text in texts)
    reached = sum(text.count("| reached |") for text in texts)
    machine = [
        (
            "machine",
            f"{os.cpu_count()} cores, {_cpu_model()}, {_memory()} memory, {platform.system()} {platform.release()}",
        ),
        ("Python", f"{platform.python_implementation()} {platform.python_version()}"),
        ("torch", _version("torch")),
        ("OpenTelemetry", f"SDK {_version('opentelemetry-sdk')}, exporters {_version('opentelemetry-exporter-otlp')}"),
        ("date", f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d}"),
    ]
    return [
        "# What it costs, measured",
        "Written by `make bench`, not by hand. Ratios within one run are what to look at: the variants of a table\n"
        "were measured in turn, on one machine, at one time. Absolute times are this machine's.",
        "\n".join(table(("what", "here"), machine)),
        f"Targets reached: {reached}; missed: {missed}.",
    ]


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux: the machine's own word below
    return platform.processor() or platform.machine()


def _memory() -> str:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
    except (OSError, ValueError):
        return "unknown"


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
