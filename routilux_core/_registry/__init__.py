"""Plugins and strategies: found, loaded, asked."""
