"""A small disk of its own below a directory, which a test fills."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tests.support.availability import find_program

__all__ = ["Disk"]

#: Room for a new database server, and little more.
SIZE = "400m"
CHUNK_BYTES = 2**20


class Disk:
    """A file system in memory; where mounting one is not allowed, there is none to be filled."""

    def __init__(self, directory: Path, user: str | None, size: str = SIZE) -> None:
        """Mount it at *directory*, an empty one, for a user."""
        self._directory = directory
        self._filling = directory / "filling"
        program = find_program("mount")
        command = [str(program), "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs"]
        self.is_mounted = (
            program is not None
            and subprocess.run([*command, directory], check=False, capture_output=True).returncode
            == 0
        )
        if self.is_mounted and user is not None:
            shutil.chown(directory, user)

    def fill(self) -> None:
        """Leave no room."""
        if not self.is_mounted:
            return
        descriptor = os.open(self._filling, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            for size in (CHUNK_BYTES, 1):
                try:
                    while True:
                        os.write(descriptor, b"x" * size)
                except OSError:  # there is no room left for so much
                    continue
        finally:
            os.close(descriptor)

    def empty(self) -> None:
        """Give the room back."""
        self._filling.unlink(missing_ok=True)

    def close(self) -> None:
        """Unmount it."""
        if self.is_mounted:
            subprocess.run([str(find_program("umount")), "-l", self._directory], check=False)
