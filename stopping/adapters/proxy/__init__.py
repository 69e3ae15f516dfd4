"""A server before a server: the same protocol, and thoughts that stop in time."""

from stopping.adapters.proxy.app import build
from stopping.adapters.proxy.serving import Served, Serving

__all__ = ["Served", "Serving", "build"]
