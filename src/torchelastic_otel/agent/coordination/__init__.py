"""What all agents of a job agree on, through the job's own store."""
