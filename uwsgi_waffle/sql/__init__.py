"""The database, which holds the truth. Rule: the only place that imports sqlalchemy."""
