"""The options of a uWSGI, read from its command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from uwsgi_waffle.server.ini import of_running_master

SLEEP = "import sys; print(flush=True); sys.stdin.read()"


def test_the_options_of_a_running_master_are_those_of_its_command_line_and_files(
    tmp_path: Path,
) -> None:
    """With and without values, `=` or not, and of an ini file that is named by itself."""
    (tmp_path / "a.ini").write_text("[uwsgi]\nprocesses = 4\ninclude = b.ini\n")
    (tmp_path / "b.ini").write_text("; more\n[uwsgi]\nlazy-apps = true\n")
    words = [
        "-c",
        SLEEP,
        "a.ini",
        "--master",
        "--mule=waffle",
        "--threads",
        "2",
        "--enable-threads",
    ]
    with subprocess.Popen(
        [sys.executable, *words], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        found = of_running_master(process.pid)
    server = found.as_server()
    for name in ("master", "lazy-apps", "enable-threads"):
        assert server.enabled(name)
    assert (server.number("processes"), server.number("threads")) == (4, 2)
    assert server.option("mule") == "waffle"
    assert "a.ini" in found.title
