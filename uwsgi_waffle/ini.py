"""Reading the configuration of a uWSGI that is not ours to ask: its ini files, and who has them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

from . import _uwsgi

__all__ = ["Configuration", "of_running_master", "read_ini"]


class Configuration:
    """The options of an ini file.

    :ivar path: the file
    :ivar values: option -> its values, in order
    """

    def __init__(self, path: Path, values: dict[str, list[str]]) -> None:
        self.path = path
        self.values = values

    def as_server(self) -> _uwsgi.Server:
        """Return the options as those of a running instance of the present uWSGI."""
        last = {name: given[-1].encode() for name, given in self.values.items()}
        return _uwsgi.Server(SimpleNamespace(opt=last, has_threads=True, version_info=(2, 0, 31)))


def read_ini(path: Path) -> Configuration:
    """Return the options of the ``[uwsgi]`` section of a file.

    :raises OSError: it cannot be read
    """
    values: dict[str, list[str]] = {}
    is_ours = True
    for raw in path.read_text(errors="replace").splitlines():
        line = raw.strip()
        section = re.fullmatch(r"\[(.*)\]", line)
        if section is not None:
            is_ours = section[1] == "uwsgi"
        elif is_ours and line and line[0] not in ";#":
            name, _, value = line.partition("=")
            values.setdefault(name.strip(), []).append(value.strip())
    return Configuration(path, values)


def of_running_master(pid: int) -> Iterator[Path]:
    """Yield the ini files that a uWSGI master was started with, as its command line names them."""
    with suppress(OSError):  # it has just ended, or is another user's
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace").split("\0")
        directory = Path(f"/proc/{pid}/cwd").readlink()
        for word in words:
            name = word.rpartition("=")[2] if word.startswith("-") else word
            path = directory / name
            if name.endswith(".ini") and path.is_file():
                yield path
