"""Things that a test starts and ends by `with`."""

from __future__ import annotations

from abc import ABC, abstractmethod

from typing_extensions import Self

__all__ = ["Closed", "Started"]


class Closed(ABC):
    """Something that is closed at the end of a `with`."""

    @abstractmethod
    def close(self) -> None:
        """End it, and all that belongs to it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Started(Closed):
    """Something that is started at the beginning of a `with`, and closed also where that fails."""

    @abstractmethod
    def start(self) -> None:
        """Start it."""

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self
