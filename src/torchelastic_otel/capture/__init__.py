"""From what torch says to the spool; knows nothing of OpenTelemetry."""
