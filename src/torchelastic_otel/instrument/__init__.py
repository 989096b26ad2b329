"""All that touches torch: where its events, agents, rendezvous and metrics are hooked."""
