"""A TCP proxy between a replica and its database that can be shut: then nothing passes, and nothing is lost.

A shut gate is what a cut network is to both sides: connections stay, and what was sent arrives when the network
is back. A late statement of a replica that was cut off therefore reaches the database.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading

CHUNK = 65_536


class Gates:
    """The proxies of all replicas, in one thread with one event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task] = set()
        self._open: dict[str, asyncio.Event] = {}

    def add(self, name: str, port: int) -> int:
        """Return the port of a new proxy to a port of this host. Gates of one name open and shut together."""
        return asyncio.run_coroutine_threadsafe(self._add(name, port), self._loop).result()

    def shut(self, name: str) -> None:
        """Let nothing pass."""
        self._loop.call_soon_threadsafe(self._open[name].clear)

    def open(self, name: str) -> None:
        """Let everything pass, also what arrived meanwhile."""
        self._loop.call_soon_threadsafe(self._open[name].set)

    async def _add(self, name: str, port: int) -> int:
        if name not in self._open:
            self._open[name] = asyncio.Event()
            self._open[name].set()
        is_open = self._open[name]

        async def serve(reader, writer):
            task = asyncio.current_task()
            self._tasks.add(task)
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await is_open.wait()
                onward = await asyncio.open_connection("127.0.0.1", port)
                await self._join(is_open, (reader, writer), onward)
            writer.transport.abort()
            self._tasks.discard(task)

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        self._servers.append(server)
        return server.sockets[0].getsockname()[1]

    async def _join(self, is_open, here, there) -> None:
        """Copy in both directions until one side ends."""

        async def copy(reader, writer):
            while data := await reader.read(CHUNK):
                await is_open.wait()
                writer.write(data)
                await writer.drain()
            await is_open.wait()

        try:
            async with asyncio.TaskGroup() as group:
                ways = [
                    group.create_task(copy(here[0], there[1])),
                    group.create_task(copy(there[0], here[1])),
                ]
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                for way in ways:
                    way.cancel()
        except* OSError:
            pass
        finally:
            there[1].transport.abort()

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
