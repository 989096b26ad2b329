"""A real torchrun agent in which the recording of a rendezvous event is timed, at the depth where torch records.

Arguments: the kind (``ours``, ``afternoon``, ``parts``, ``redacting``), a JSON object of sample counts,
torchrun's own.

What always holds: what is timed is torch's own ``_record``, called from a method of torch's own name in place of the
one that calls it, so that neither the stack nor the event differs from a real one; switching between variants is
never inside a timed call; the job goes on as usual afterwards.
"""

from __future__ import annotations

import cProfile
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import profiles
import table

SPACING_S = 0.005
BLOCK = 20
WARM_UP_S = 2.5


def forget(nanoseconds: int) -> None:
    """A call that does not count."""


class Sampler:
    """Who records next, and what became of it."""

    def __init__(self, kind: str, counts: dict[str, int]) -> None:
        self.kind = kind
        self.counts = counts
        self.before = table.take()
        self.variants: list[table.Variant] = []
        self.times: dict[str, dict[str, list[int]]] = {}
        self.depths: dict[str, int] = {}
        self.profiles: dict[str, cProfile.Profile] = {}
        self.profiling = ""
        self._profiled_thread = cProfile.Profile()

    def variants_now(self) -> list[table.Variant]:
        """The variants, torch's own first; ``ours`` is what this process's agent came with."""
        changed = table.change(self.before, table.take())
        stock = [(owner, name, before) for owner, name, before, _ in changed]
        ours = [(owner, name, after) for owner, name, _, after in changed]
        console = logging.StreamHandler(open(os.devnull, "w"))  # noqa: SIM115 - for as long as the process lives
        variants = [
            table.Variant("off", stock, logging.NullHandler(), None),
            table.Variant("console", stock, console, table.logger_with(console)),
        ]
        if self.kind == "afternoon":
            import afternoon

            handler = afternoon.handler()
            variants.append(table.Variant("afternoon", stock, handler, table.logger_with(handler)))
            return variants
        if not changed:
            raise SystemExit("torchelastic_otel is not active in this agent: nothing of torch was changed")
        if self.kind == "redacting":
            variants = []
        if self.kind == "parts":
            import controls

            parts = {"made": controls.Nowhere(), "handed over": controls.HandOver(), "committed": controls.Commit()}
            variants = [table.Variant(name, ours, part, table.logger_with(part)) for name, part in parts.items()]
        variants.append(table.Variant("ours", ours, table.current_handler(), table.current_logger()))
        return variants

    def turns(self, site: str) -> Iterator[Callable[[int], None]]:
        """Puts one variant after the other in place; each turn takes the time of one call."""
        self.depths[site] = _depth() - 1  # the frame of this generator is not there during the call
        first = not self.variants
        self.variants = self.variants or self.variants_now()
        order = self.variants
        if self.kind == "redacting" and not first:
            yield from self._profiled(order[-1])
            return
        if first:
            yield from self._spaced("loading", order, 10)
            time.sleep(WARM_UP_S)
        for variant in order:
            variant.use()
            for _ in range(5):
                yield forget
        yield from self._spaced("spaced", order, self.counts["spaced"])
        for turn in range(self.counts["blocks"]):
            for variant in _rotated(order, turn):
                variant.use()
                for _ in range(BLOCK):
                    yield self._list("back to back", variant).append
        order[-1].use()

    def _spaced(self, mode: str, order: list[table.Variant], turns: int) -> Iterator[Callable[[int], None]]:
        for turn in range(turns):
            for variant in _rotated(order, turn):
                variant.use()
                time.sleep(SPACING_S)
                yield self._list(mode, variant).append

    def _list(self, mode: str, variant: table.Variant) -> list[int]:
        return self.times.setdefault(mode, {}).setdefault(variant.name, [])

    # --- profiles

    def _profiled(self, ours: table.Variant) -> Iterator[Callable[[int], None]]:
        ours.use()
        calls = self.counts["profiled"]
        caller = self.profiles["the caller's thread"] = cProfile.Profile()
        caller.enable()
        for _ in range(calls):
            yield forget
        caller.disable()
        self.profiles["the writer's thread"] = self._profiled_thread
        self.profiling = "start"
        for _ in range(calls):
            yield forget
        self.profiling = "stop"
        yield forget

    def redact(self, event: Any) -> Any:
        """Called on the writer's thread for each event: the public way in to profile that thread."""
        if self.profiling == "start":
            self.profiling = "running"
            self._profiled_thread.enable()
        elif self.profiling == "stop":
            self.profiling = ""
            self._profiled_thread.disable()
        return event

    def texts(self) -> dict[str, str]:
        """The profiles as text, the dearest functions first."""
        return {name: profiles.text(profile, self.counts["profiled"]) for name, profile in self.profiles.items()}


def _rotated(order: list[table.Variant], turn: int) -> list[table.Variant]:
    at = turn % len(order)
    return order[at:] + order[:at]


def _depth() -> int:
    frame, depth = sys._getframe(1), 0
    while frame is not None:
        frame, depth = frame.f_back, depth + 1  # type: ignore[assignment]
    return depth


def main() -> None:
    """Run the agent; say the samples when it has rendezvoused."""
    kind, counts = sys.argv[1], json.loads(sys.argv[2])
    import torch.distributed.elastic.rendezvous.dynamic_rendezvous as dynamic
    from torch.distributed import run

    clock = time.perf_counter_ns
    join = dynamic.DynamicRendezvousHandler.next_rendezvous
    add = dynamic._DistributedRendezvousOpExecutor._add_to_participants

    def next_rendezvous(self: Any) -> Any:
        msg = (
            f"The node '{self._this_node}' attempts to join the next round of the rendezvous '{self._settings.run_id}'."
        )
        for take in sampler.turns("DynamicRendezvousHandler._record"):
            began = clock()
            self._record(message=msg)
            take(clock() - began)
        return join(self)

    def _add_to_participants(self: Any) -> None:
        msg = (
            f"The node '{self._node}' added itself to the participants of round {self._state.round} of the rendezvous"
            f" '{self._settings.run_id}'. Pending sync."
        )
        for take in sampler.turns("_DistributedRendezvousOpExecutor._record"):
            began = clock()
            self._record(message=msg)
            take(clock() - began)
        said = {"kind": "samples", "times": sampler.times, "depths": sampler.depths, "profiles": sampler.texts()}
        print(json.dumps(said), flush=True)
        add(self)

    # before anything is looked at, so that these two are no difference between the variants
    dynamic.DynamicRendezvousHandler.next_rendezvous = next_rendezvous
    dynamic._DistributedRendezvousOpExecutor._add_to_participants = _add_to_participants
    sampler = Sampler(kind, counts)
    if kind == "redacting":
        import torchelastic_otel

        torchelastic_otel.install(redact=sampler.redact)
    run.main(sys.argv[3:])


if __name__ == "__main__":
    main()
