"""Many hosts on one database and one Redis: real ones, and others that a few processes play."""
