"""What a routine is made of."""
