"""What is remembered of a job, and who is told."""
