"""uWSGI: every way to run it, every trap it sets, every fault it can have."""
