"""How an agent was launched, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torchelastic_otel import semconv


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """How an agent was launched.

    Attributes:
        run_id: The run's id, ``--rdzv-id``.
        backend: The rendezvous backend's name.
        role: The workers' role.
        entry_point: The program that the workers run.
        nodes_min: Nodes that a round needs; ``None`` if the backend does not provide it.
        nodes_max: Nodes that a round accepts.
        local_world_size: Workers on this node.
        restarts_max: How often this agent may restart its workers after failures of their own.
    """

    run_id: str
    backend: str
    role: str
    entry_point: str
    nodes_min: int | None
    nodes_max: int | None
    local_world_size: int
    restarts_max: int

    def to_attributes(self) -> Mapping[str, Any]:
        """All but the run's id, which every event has."""
        return {
            semconv.NODES_MIN: self.nodes_min,
            semconv.NODES_MAX: self.nodes_max,
            semconv.LOCAL_WORLD_SIZE: self.local_world_size,
            semconv.RESTARTS_MAX: self.restarts_max,
            semconv.ROLE_NAME: self.role,
            semconv.RENDEZVOUS_BACKEND: self.backend,
            semconv.ENTRY_POINT: self.entry_point,
        }
