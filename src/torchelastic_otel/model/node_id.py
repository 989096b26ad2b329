"""Node ids of torch's dynamic rendezvous: ``<address>_<pid>_<local id>`` (torch 2.2 to 2.15)."""

from __future__ import annotations


def address_of(node_id: str) -> str:
    """The address in a node id; an address may contain underscores, too."""
    return node_id.rsplit("_", 2)[0]
