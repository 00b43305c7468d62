"""All that the client offers to applications: what `from saccade import ...` gives."""

from .client import Answer, AsyncClient, Category, Client, Connection, ModelEntry, Picture, Streamed
from .errors import (
    Cancelled,
    DeadlineExceeded,
    InferenceFailed,
    InvalidInput,
    NotAllowed,
    Overloaded,
    SaccadeError,
    SetupError,
    Unavailable,
    UnknownModel,
    Unsupported,
)

__all__ = [
    "Answer",
    "AsyncClient",
    "Cancelled",
    "Category",
    "Client",
    "Connection",
    "DeadlineExceeded",
    "InferenceFailed",
    "InvalidInput",
    "ModelEntry",
    "NotAllowed",
    "Overloaded",
    "Picture",
    "SaccadeError",
    "SetupError",
    "Streamed",
    "Unavailable",
    "UnknownModel",
    "Unsupported",
]
