"""What makes a flow live: its schedulers, their pools, how jobs begin and everything ends, and what a fork leaves."""
