"""One application in one process: what it serves, and how it changes. Rule: the only place that
holds mutable state of an application.
"""
