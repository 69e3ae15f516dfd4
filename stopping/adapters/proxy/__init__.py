"""A proxy in front of a server of the OpenAI protocol, which stops thoughts by a policy.

Clients change only the address. Additions to the protocol:

    request header `x-stopping-policy`   the name of a policy, or `none`; by default that of the model, or the default policy
    `usage.stopping` of a policed answer policy, stopped, would_stop_at, probe_tokens, discarded_tokens, expected_tokens_saved
    `usage.completion_tokens`            all tokens generated for the answer: the trace, probes and discarded tokens
    `GET /metrics`                       counters for Prometheus, `stopping_*`
    `GET /healthz`                       200, or 503 if the server does not answer

A slow client delays no other. A completion takes a turn (there are as many as the server has slots) once its key is checked and
its body is complete, and returns it when its answer is sent. A body that arrives too slowly is refused with 408 (`body_late`). A
client that does not read its answer is disconnected (`client_stalled`).

The thought of a request is generated in pieces, unless the request uses a feature that this does not support (tools, several
choices, a grammar). Some of these requests are controlled by orders, if the server accepts orders to close a thought. The others
are forwarded unchanged and counted by reason, as are requests of the holdout and, in shadow mode, all requests; for these two the
policy is asked afterwards. An error is a document or, within a stream, an event `{"error": {"message", "type", "code"}}`, whose
type is a kind of `stopping_faults`. If the server refuses or breaks off during a thought, the next piece is requested again from
the tokens so far. If the policy fails, the thought continues without it.
"""

from stopping.adapters.proxy.app import build
from stopping.adapters.proxy.config import ProxyConfig, ServedPolicy

__all__ = ["ProxyConfig", "ServedPolicy", "build"]
