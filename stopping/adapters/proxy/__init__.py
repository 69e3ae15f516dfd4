"""A server before a server: the same protocol, and thoughts that stop in time.

Clients change nothing but the address. What there is besides the protocol:

    request header `x-stopping-policy`   a policy by its name, or `none`; otherwise that of the model, or the default
    `usage.stopping` of a policed answer policy, stopped, would_stop_at, probe_tokens, discarded_tokens, expected_tokens_saved
    `usage.completion_tokens`            all that was generated for the answer: its trace, probes, what was thrown away
    `GET /metrics`                       counters for Prometheus, `stopping_*`
    `GET /healthz`                       200, or 503 where the server behind does not answer

Nobody waits for somebody else's slow client. A completion takes its turn before the server (as many at once as that has slots)
when its key is checked and its body is whole, and gives it back when its answer is sent. A body that comes too slowly is refused
with 408 (`body_late`); a client that does not read its answer is cut off (`client_stalled`).

A request is policed in pieces unless it asks for what these cannot keep to (tools, several choices, a grammar). Some of those
are policed by order, if the server takes orders to close a thought; the others are handed on byte for byte, and counted by the
reason. So is one of the holdout, and every one in the shadow, where the policy is asked afterwards. An error is a document or,
amid a stream, an event `{"error": {"message", "type", "code"}}`; its type is a kind of `stopping_faults`. A piece that the server
refuses or breaks off amid a thought is asked for again from the tokens there are; where the policy fails, the thought goes on
without it.
"""

from stopping.adapters.proxy.app import build
from stopping.adapters.proxy.config import ProxyConfig, ServedPolicy

__all__ = ["ProxyConfig", "ServedPolicy", "build"]
