"""From the spool to the exporters; knows nothing of torch."""
