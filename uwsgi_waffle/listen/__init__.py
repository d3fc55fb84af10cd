"""The listener: one turn of it, and where it runs. Rule: it moves the host snapshot, and knows
neither Flask nor what a process serves.
"""
