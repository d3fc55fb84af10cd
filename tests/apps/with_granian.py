"""Granian with a start method of multiprocessing: `fork`, or `spawn`, as from Python 3.14 on.

Its arguments are that method, the port and the number of workers.
"""

from __future__ import annotations

import multiprocessing
import sys

from granian import Granian
from granian.constants import Interfaces

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    Granian(
        "tests.apps.whole_numbers:app",
        port=int(sys.argv[2]),
        workers=int(sys.argv[3]),
        interface=Interfaces.WSGI,
        blocking_threads=1,
        respawn_failed_workers=True,
        respawn_interval=0.1,
    ).serve()
