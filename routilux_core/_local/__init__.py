"""What runs calls in this process."""
