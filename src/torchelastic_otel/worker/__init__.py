"""What a worker may call; it imports nothing of torch, and none of the ingest and export pipelines."""
