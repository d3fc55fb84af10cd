"""uWSGI, gevent and forks, seen from one process.

Rule: standard library only, as the uWSGI master imports this before anything is patched or loaded.
"""
