"""Redis: announcements and reports of hosts. Rule: the only place that imports redis."""
