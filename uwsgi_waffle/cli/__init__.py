"""``flask waffle``: see, change, verify and undo from the command line.

Rule: the only place that imports click.

Flask finds the group by an entry point, so an application needs no code for it. ``_base`` holds
what all commands share, ``_render`` what they print; the other modules hold the commands by theme
and are imported for adding them to the group.
"""

from __future__ import annotations

from . import change as change
from . import observe as observe
from . import read as read
from . import transfer as transfer
from . import upkeep as upkeep
from ._base import cli as cli
