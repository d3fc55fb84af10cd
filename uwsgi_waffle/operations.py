"""What an operator asks of an application, and the pages for it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from .process.applications import Applications

if TYPE_CHECKING:
    from flask import Blueprint

    from .admin.permission import Authorize
    from .bus.fleet import Fleet
    from .ops.health import Health
    from .ops.status import Status

__all__ = ["Operations"]


class Operations:
    """The methods of an extension that answer for its application, whatever its settings are.

    What each of them needs is imported when it is first asked for.
    """

    _applications: Applications

    def wait(self, revision: int, timeout: float = 5.0) -> Fleet:
        """Return when every living process of every host serves a revision, refusing none of it.

        SQL's present state counts, or a later one, and only processes that are woken for changes
        are waited for.

        :param timeout: how long to wait for them, in seconds
        :raises NotConverged: some do not in time, refuse a value, or may exist without being known
        """
        from .ops.convergence import wait

        return wait(self._applications.find(), revision, timeout)

    def status(self) -> Status:
        """Return which process serves which revision, and what is wrong.

        Asks SQL and Redis once each; where one does not answer, the status reports it.
        """
        from .ops.status import collect

        return collect(self._applications.find())

    def health(self) -> Health:
        """Return whether this process is to get requests, and whether it should be started anew.

        For the probes of an orchestrator; it may be asked each second. As a read does, it asks SQL
        only where no listener keeps this host up to date, once per poll, and never Redis. Nothing
        is raised.
        """
        from .ops.health import check

        return check(self._applications.find)

    def metrics(self) -> str:
        """Return this host in numbers, as Prometheus's text format 0.0.4 has them.

        Each process of the host gives the same answer. It asks neither SQL nor Redis.
        """
        from .ops import metrics

        return metrics.text(metrics.collect(self._applications.find()))

    def admin(
        self, *, authorize: Authorize, trusted_hosts: Iterable[str] | None = None
    ) -> Blueprint:
        """Return pages, and the same as JSON, to see and change settings.

        ::

            app.register_blueprint(waffle.admin(authorize=who), url_prefix="/waffle")

        :param authorize: given the request, returns the actor's name, a :class:`Permission`, or
            ``None`` for 403
        :param trusted_hosts: host names under which the pages are served, as those of Flask's
            ``TRUSTED_HOSTS``; a request with another one gets 400. ``None`` for any
        :raises ConfigError: Flask-WTF is not installed, or *authorize* is not a function
        """
        from .admin import make_blueprint

        return make_blueprint(self._applications.find, authorize, trusted_hosts)
