"""The host snapshot: one file, mapped by every process of the application on this host.

``layout`` says what stands where, ``files`` opens, checks and replaces the file, ``host`` reads
and writes it, ``slots`` is the list of processes in it.
"""

from __future__ import annotations

from .host import HostSnapshot as HostSnapshot
from .slots import ListenerState as ListenerState
from .slots import ProcessSlot as ProcessSlot
from .slots import SlotTable as SlotTable
