"""What settings are. Rule: pure; nothing here does I/O, starts a thread or knows a process."""
