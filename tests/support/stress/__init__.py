"""Random flows against answers that are worked out without the engine."""
