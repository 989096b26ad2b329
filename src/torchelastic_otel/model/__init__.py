"""Events, spans, metrics and what describes them: pure data, without torch and without OpenTelemetry."""
