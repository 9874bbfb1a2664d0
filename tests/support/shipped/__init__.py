"""Routines that share no memory with their flow, and the strategies that run them."""
