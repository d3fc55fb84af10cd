"""One application in one process."""
