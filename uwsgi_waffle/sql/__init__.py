"""The database, where the truth lives. Rule: the only place that imports sqlalchemy."""
