"""`flask waffle`."""
