"""The Python client: classify pictures with one server or several, from threads or from asyncio.

with Client("localhost:8001") as client:
    answer = client.classify("cat.jpg")
    print(answer.classifications[0][0].label)

Failures are the exceptions of `errors`. What a caller may rely on is in README.md beside this file.
"""

from ..connection import Connection
from .answers import Answer, Category, ModelEntry, Streamed
from .asynchronous import AsyncClient
from .pictures import Picture
from .synchronous import Client

__all__ = ["Answer", "AsyncClient", "Category", "Client", "Connection", "ModelEntry", "Picture", "Streamed"]
