"""The options of a uWSGI, read from its command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.programs import Program
from uwsgi_waffle.server.ini import of_running_master

SLEEP = "import sys; print('started', flush=True); sys.stdin.read()"


def test_the_options_of_a_running_master_are_those_of_its_command_line_and_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With and without values and `=`, and of an ini file that is named without an option."""
    (tmp_path / "a.ini").write_text("[uwsgi]\nprocesses = 4\ninclude = b.ini\n")
    (tmp_path / "b.ini").write_text("; more\n[uwsgi]\nlazy-apps = true\n")
    monkeypatch.chdir(tmp_path)
    options = ["a.ini", "--master", "--mule=waffle", "--threads", "2", "--enable-threads"]
    with Program(SLEEP, *options, quick=False) as master:
        assert master.read() == "started"
        found = of_running_master(master.pid)
    server = found.as_server()
    for name in ("master", "lazy-apps", "enable-threads"):
        assert server.enabled(name)
    assert (server.number("processes"), server.number("threads")) == (4, 2)
    assert server.option("mule") == "waffle"
    assert "a.ini" in found.title
