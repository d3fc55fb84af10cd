"""A link between two programs that a test cuts, slows down, makes one-way, or resets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Literal

from tests.support.lifecycle import Closed
from tests.support.processes import free_port
from tests.support.waiting import SOON_SECONDS

__all__ = ["Proxy", "Way"]

#: From the client to the server, or back.
Way = Literal["there", "back"]
_WAYS: tuple[Way, Way] = ("there", "back")

CHUNK_BYTES = 65_536
#: What makes closing a socket send a reset.
_NO_LINGER = struct.pack("ii", 1, 0)


class Proxy(Closed):
    """Passes connections on to a port of 127.0.0.1.

    A cut keeps what was sent, as TCP does: it arrives once the link is mended.
    """

    def __init__(self, target_port: int, address: str = "127.0.0.1") -> None:
        """Listen on a free port of *address* at once."""
        self.port = free_port()
        self.address = address
        self._target_port = target_port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._open: dict[Way, asyncio.Event] = {}
        self._delay_seconds = 0.0
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self._run(self._start())

    # -- faults -------------------------------------------------------------------------------

    def cut(self, *ways: Way) -> None:
        """Let nothing through any more, in the ways that are named, both if none is."""
        for way in ways or _WAYS:
            self._call(self._open[way].clear)

    def delay(self, seconds: float) -> None:
        """Make everything that is sent take so much longer."""
        self._delay_seconds = seconds

    def reset(self) -> None:
        """Break each connection at once; new ones are let through."""
        self._call(self._reset)

    def refuse(self) -> None:
        """Break each connection, and refuse new ones."""
        self._run(self._stop())
        self.reset()

    def heal(self) -> None:
        """End all faults."""
        self._delay_seconds = 0.0
        for way in _WAYS:
            self._call(self._open[way].set)
        if self._server is None:
            self._run(self._start())

    def close(self) -> None:
        """End the link, and what runs it."""
        self.refuse()
        self.heal_pumps()
        self._run(self._end_tasks())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(SOON_SECONDS)
        self._loop.close()

    def heal_pumps(self) -> None:
        """Let what waits for a cut to end go on, to notice that its connection is gone."""
        for way in _WAYS:
            self._call(self._open[way].set)

    # -- in the thread of the loop ------------------------------------------------------------

    async def _start(self) -> None:
        for way in _WAYS:
            self._open.setdefault(way, asyncio.Event()).set()
        self._server = await asyncio.start_server(self._serve, self.address, self.port)

    async def _stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _end_tasks(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _reset(self) -> None:
        for writer in list(self._writers):
            raw: socket.socket = writer.get_extra_info("socket")
            with contextlib.suppress(OSError):
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        back: asyncio.StreamWriter | None = None
        try:
            await self._open["there"].wait()  # a connection that is cut is not made, either
            answers, back = await asyncio.open_connection("127.0.0.1", self._target_port)
            self._writers.add(back)
            await asyncio.gather(
                self._pump("there", reader, back), self._pump("back", answers, writer)
            )
        except (OSError, asyncio.CancelledError):
            pass  # the connection ends, which its two ends notice
        finally:
            for end in (writer, back):
                if end is not None:
                    self._writers.discard(end)
                    end.close()

    async def _pump(
        self, way: Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while data := await reader.read(CHUNK_BYTES):
            await asyncio.sleep(self._delay_seconds)
            await self._open[way].wait()
            writer.write(data)
            await writer.drain()
        await self._open[way].wait()
        with contextlib.suppress(OSError):
            writer.write_eof()

    # -- from other threads -------------------------------------------------------------------

    def _call(self, act: Callable[[], object]) -> None:
        async def call() -> None:
            act()

        self._run(call())

    def _run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(SOON_SECONDS)
