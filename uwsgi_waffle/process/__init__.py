"""One application in one process. Rule: all that changes while the application runs is here."""
