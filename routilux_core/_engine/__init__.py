"""What decides: the plan of a flow, its jobs, what may run."""
