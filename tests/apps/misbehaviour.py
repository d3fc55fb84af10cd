"""Values of the second setting of `whole_numbers` at which an application with a bug misbehaves."""

from __future__ import annotations

#: Its validator hangs in a mule, for an hour.
HANG_IN_MULE = -1
#: Its callbacks raise SystemExit, and KeyboardInterrupt.
LEAVE, INTERRUPT = -2, -4
#: Its callback never returns.
HANG_IN_CALLBACK = -3
