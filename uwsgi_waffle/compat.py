"""The state of an application, with what Flask-WaffleConf's answered beside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .state import State
from .writes import Writer

__all__ = ["WaffleState"]


class WaffleState(State):
    """``app.extensions["waffleconf"]``, which code for Flask-WaffleConf asks as it did."""

    def parse_conf(self, keys: Sequence[str] = ()) -> dict[str, Any]:
        """Return settings by name, all of them where no *keys* are given.

        :raises UnknownSetting: a key is not declared
        """
        self.declaration.check_known(keys)
        values = self.fresh().values
        return {name: values[name] for name in (keys or self.declaration.names)}

    def update_db(self, values: Mapping[str, Any]) -> None:
        """Store values, announce them and serve them; raises as ``WaffleConf.update`` does."""
        Writer(self).update(values)

    def update_conf(self) -> None:
        """Look whether there are newer settings, and serve them.

        :raises StoreUnavailable: the database did not answer
        """
        self.refresh()
