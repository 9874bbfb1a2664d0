"""Strategies as third parties write them, right ones and wrong ones, and a table of flows that all answer alike."""
