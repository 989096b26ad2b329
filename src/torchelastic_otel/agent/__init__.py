"""What one agent does, as the hooks observe it; plain data, nothing of torch."""
