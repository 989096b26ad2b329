"""From unprocessed records to events, spans and metrics."""
