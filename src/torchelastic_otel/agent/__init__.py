"""What one torchelastic agent is observed to do, as plain data; imports nothing of torch."""
