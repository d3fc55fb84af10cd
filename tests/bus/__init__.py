"""Redis: announcements, reports, and the fleet that they describe."""
