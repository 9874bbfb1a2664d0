"""What keeps jobs on disk while they run, and takes them up again. Loaded when a flow has a journal."""
