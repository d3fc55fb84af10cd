"""Redis: announcements between hosts, and their reports. Rule: the only place that imports redis."""
