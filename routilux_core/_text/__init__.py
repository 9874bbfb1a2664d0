"""What people read: names that are shown, hints, and lines of the log."""
