"""The bundled execution strategies. Not API: select them by name."""
