"""For tests, benchmarks and the demo: an OTLP receiver that records what arrives."""
