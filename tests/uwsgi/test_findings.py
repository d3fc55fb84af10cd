"""Set-ups that cannot work as intended: named once per instance, with the fix, and survived."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass

import pytest

from tests.support.instance import BOOT, ELECTED, LAZY, Instance
from tests.support.places import ROOT
from tests.support.uwsgi_server import Options


@dataclass(frozen=True)
class Finding:
    """Options that cannot work as intended, and what the log holds about them.

    :ivar fix: a regular expression
    :ivar serves: whether the workers live in spite of it
    """

    options: tuple[Options, ...]
    fix: str
    serves: bool = True


FINDINGS = {
    "fork-hooks-with-mule": Finding(
        (BOOT, {"py-call-uwsgi-fork-hooks": True}), "Remove that option, or the mule"
    ),
    "fork-hooks-with-mule-lazy": Finding(
        (BOOT, LAZY, {"py-call-uwsgi-fork-hooks": True}), "Remove that option, or the mule"
    ),
    "callable-mule-with-lazy-apps": Finding(
        (ELECTED, LAZY, {"mule": "uwsgi_waffle.mule:main"}), "unbit/uwsgi#1746.*`mule = waffle`"
    ),
    "mule-names-module": Finding(
        (ELECTED, {"mule": "uwsgi_waffle.mule"}), "without a program.*Write `mule = waffle`"
    ),
    "thunder-lock-with-threads": Finding(
        (BOOT, {"thunder-lock": True, "threads": 2}), "Remove thunder-lock"
    ),
    "osafterfork": Finding(
        (BOOT, {"py-call-osafterfork": True}),
        "Remove that option; uwsgi_waffle does not need it",
        serves=False,
    ),
}
if sys.version_info < (3, 13):
    del FINDINGS["osafterfork"]


@pytest.mark.parametrize("code", FINDINGS)
def test_each_finding_is_logged_once_with_the_fix(code: str) -> None:
    """One line in the log of the instance; where the workers can live, each serves what is new."""
    finding = FINDINGS[code]
    instance = Instance(*finding.options, workers=2, separate=code[:7] != "thunder")
    if not finding.serves:
        with pytest.raises(AssertionError):
            instance.start()
        instance.close()
        return
    with instance:
        instance.assert_right(10)
        assert instance.count_in_log(finding.fix) == 1


def test_options_that_are_switched_off_are_no_finding() -> None:
    """UWSGI shows "false" as a text, which is true in Python."""
    off: Options = {"py-call-uwsgi-fork-hooks": False, "thunder-lock": False, "threads": 2}
    with Instance(BOOT, off, workers=1) as instance:
        assert instance.count_in_log("Remove") == 0


def test_boot_loads_only_the_standard_library() -> None:
    """In the master it comes before gevent patches, and before anything of the application."""
    program = (
        "import sys; before = set(sys.modules); import uwsgi_waffle.boot; "
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}; "
        "print(sorted(new - sys.stdlib_module_names))"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert found.stdout.strip() == "['uwsgi_waffle']"
