"""The store and its maintenance, on each database."""
