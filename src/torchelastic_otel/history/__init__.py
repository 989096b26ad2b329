"""Job history: from stored events to runs, rounds, nodes, failures and restarts."""
