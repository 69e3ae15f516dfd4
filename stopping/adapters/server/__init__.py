"""A policy on a server that speaks the OpenAI protocol; `connect` opens a session of one."""

from stopping.adapters.server.session import Session, connect

__all__ = ["Session", "connect"]
