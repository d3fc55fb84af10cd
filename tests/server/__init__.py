"""uWSGI, gevent and forks."""
