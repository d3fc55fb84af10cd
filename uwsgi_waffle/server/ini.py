"""The options of a uWSGI instance, seen from outside: its command line and its ini files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

from . import _uwsgi

__all__ = ["Configuration", "of_running_master", "read_ini"]

#: Options that name another file to read.
_INCLUDES = frozenset({"ini", "inherit", "include", "ini-paste", "ini-paste-logged"})
#: How deep files may include each other.
_MOST_DEPTH = 5


class Configuration:
    """The options of an instance.

    :ivar title: where they come from
    :ivar values: option -> its values, in order
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self.values: dict[str, list[str]] = {}

    def add(self, name: str, value: str, directory: Path, depth: int = 0) -> None:
        """Add an option, and those of the file that it may name.

        :raises OSError: that file cannot be read
        """
        self.values.setdefault(name, []).append(value)
        if name in _INCLUDES and depth < _MOST_DEPTH:
            self.add_file(directory / value.partition(":")[0], directory, depth + 1)

    def add_file(self, path: Path, directory: Path, depth: int = 0) -> None:
        """Add the options of the ``[uwsgi]`` section of a file.

        :param directory: what relative names of files are relative to
        :raises OSError: it cannot be read
        """
        is_ours = True
        for raw in path.read_text(errors="replace").splitlines():
            line = raw.strip()
            section = re.fullmatch(r"\[(.*)\]", line)
            if section is not None:
                is_ours = section[1] == "uwsgi"
            elif is_ours and line and line[0] not in ";#":
                name, _, value = line.partition("=")
                self.add(name.strip(), value.strip(), directory, depth)

    def as_server(self) -> _uwsgi.Server:
        """Return the options as those of a running instance of the present uWSGI."""
        last = {name: given[-1].encode() for name, given in self.values.items()}
        return _uwsgi.Server(SimpleNamespace(opt=last, has_threads=True, version_info=(2, 0, 31)))


def read_ini(path: Path) -> Configuration:
    """Return the options of a file.

    :raises OSError: it, or a file that it names, cannot be read
    """
    found = Configuration(str(path))
    found.add_file(path, Path.cwd())
    return found


def of_running_master(pid: int) -> Configuration:
    """Return the options that a uWSGI master was started with.

    :raises OSError: it has just ended, or is another user's
    """
    words = Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace").split("\0")
    directory = Path(f"/proc/{pid}/cwd").readlink()
    given = list(_options(words[1:]))
    files = " ".join(value for name, value in given if name in _INCLUDES)
    found = Configuration(f"master {pid}" + (f", {files}" if files else ""))
    for name, value in given:
        found.add(name, value, directory)
    return found


def _options(words: list[str]) -> Iterator[tuple[str, str]]:
    """Yield the options of a command line; an ini file may stand there by itself."""
    name = ""
    for word in [*words, "--"]:
        if not word.startswith("-"):
            if name or word.endswith(".ini"):
                yield name or "ini", word
            name = ""
            continue
        if name:  # the option before this one takes no value
            yield name, "true"
        name, equals, value = word.lstrip("-").partition("=")
        if equals:
            yield name, value
            name = ""
