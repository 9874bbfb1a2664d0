"""Routines that worker processes import, and pools and programs that are looked at from outside."""
