"""What the agents of one job agree on through the job's own store."""
