"""The story of a run, folded over the events of one node or of many; pure."""
