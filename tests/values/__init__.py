"""Positions, declarations, values and snapshots."""
