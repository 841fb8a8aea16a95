"""A FastAPI application that registers itself: `uvicorn fastapi_app:app --port 8000 --workers 4`.

The workers share one record, which is withdrawn with the last of them.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

import discovery
from discovery.addresses import primary_address

HOST = primary_address(4) or primary_address(6) or "127.0.0.1"
ADDRESS = os.environ.get("ADDRESS") or discovery.join_host_port(HOST, 8000)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Keep the application registered. It listens only after this has begun, so a check awaits the port."""
    async with discovery.registered(None, "web", ADDRESS, check={"type": "tcp"}):
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/")
async def hello() -> str:
    """Answer a request."""
    return "hello"
