"""Saving and loading, against random flows, hostile documents and kills."""
