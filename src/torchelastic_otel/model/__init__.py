"""What an event is, said without torch and without OpenTelemetry: pure data, pure functions."""
