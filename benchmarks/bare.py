"""A minimal server for comparison: answers, or writes a body in a group commit and answers. See front.py."""

from __future__ import annotations

import asyncio
import socket
import sys
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import uvicorn
from engine.journal.sqlite import schema
from engine.journal.sqlite.group_commit import GroupCommitWriter


def server(mode: str, path: Path) -> Any:
    """Return the ASGI callable. mode: ``answer`` or ``commit``."""
    schema.prepare(path)
    writer = GroupCommitWriter(
        partial(schema.connect, path, writes=True), "bare", schema.WalSync(path)
    )

    def insert(body: bytes) -> Any:
        return lambda connection: connection.execute(
            "INSERT INTO events (body, received) VALUES (?, 0)", (body,)
        )

    async def app(scope: Any, receive: Any, send: Any) -> None:
        del scope
        body = (await receive())["body"]
        if mode == "commit":
            await asyncio.wrap_future(writer.submit(insert(body)))
        await send(
            {"type": "http.response.start", "status": 202, "headers": [(b"content-length", b"2")]}
        )
        await send({"type": "http.response.body", "body": b"{}"})

    return app


if __name__ == "__main__":
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listener:
        print(listener.getsockname()[1], flush=True)
        app = server(sys.argv[1], Path(sys.argv[2]))
        settings = uvicorn.Config(
            app, http="httptools", loop="uvloop", lifespan="off", log_config=None, access_log=False,
            date_header=False, server_header=False,
        )  # fmt: skip
        uvicorn.Server(settings).run(sockets=[listener])
