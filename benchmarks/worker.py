"""What a worker pays that loads our entry point."""

from __future__ import annotations

from typing import Any

from processes import directory, ended_ns, environment, started, told
from report import Check, Section, median, ms, table

from tests.support.collector import refusing_port

NAME = "worker"
TARGET_MS = 1


def measure(quick: bool) -> Section:
    """Workers with and without our entry point, in turn."""
    rounds = 2 if quick else 4
    said: dict[str, list[dict[str, Any]]] = {"without": [], "ours": []}
    files: list[str] = []
    for _ in range(rounds):
        for way, of_way in said.items():
            told_by_worker, made = _worker(way)
            of_way.append(told_by_worker)
            files += made
    totals = [sum(worker["took"].values()) for worker in said["ours"]]
    threads = {way: max(worker["threads"] for worker in of_way) for way, of_way in said.items()}
    sdk = sorted({name for worker in said["ours"] for name in worker["sdk"]})
    sdk = [name for name in sdk if name not in said["without"][0]["sdk"]]
    section = Section(
        NAME,
        "what a worker pays",
        "A worker that imports `torch.distributed.checkpoint`, which makes torch load our entry point, with an OTLP"
        " endpoint in its environment; beside it one in which torch passes over our entry point. torch is imported"
        " before. The time is that of the entry point's `load()` and of the call of what it gives, as torch does them.",
    )
    added = threads["ours"] - threads["without"]
    section.checks = [
        Check(
            "time", f"below {TARGET_MS} ms", f"{ms(median(totals))}, longest {ms(max(totals))}", median(totals) < 1e6
        ),
        Check("threads added", "0", str(added), added == 0),
        Check("modules of the SDK, gRPC or SQLite loaded", "none", ", ".join(sdk) or "none", not sdk),
        Check("files made", "none", ", ".join(files) or "none", not files),
    ]
    rows = [
        (part, ms(median(samples)), ms(max(samples)))
        for part in ("load", "call")
        if (samples := [worker["took"][part] for worker in said["ours"]])
    ]
    modules = ", ".join(f"`{name}`" for name in said["ours"][0]["ours"])
    section.body = [
        *table(("part", "median", "longest"), rows),
        "",
        f"Of ours, {modules} are loaded. {rounds} workers each.",
    ]
    section.profile = "the entry point: " + _worker("ours", BENCH_PROFILE="1")[0]["profile"]
    return section


def _worker(way: str, **variables: str) -> tuple[dict[str, Any], list[str]]:
    """What a worker says, and the names of the files it left in its temporary directory."""
    with directory() as place:
        endpoint = f"http://127.0.0.1:{refusing_port()}"
        environ = environment(place, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, **variables)
        with started("worker.py", [way], environ, place) as process:
            said = told(process, place, "worker")
            ended_ns(process)
        return said, [path.name for path in place.rglob("*") if path.suffix != ".stderr"]
