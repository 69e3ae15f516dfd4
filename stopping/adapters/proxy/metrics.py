"""The counters of a proxy, under the names that `/metrics` shows."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

POSITIONS = (32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
FAULTS = (
    "policy_failed", "order_failed", "upstream_failed", "upstream_refused", "upstream_resumed", "client_gone", "client_stalled",
    "bad_request", "body_late", "too_many", "account_lost",
)  # fmt: skip
SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)


class Metrics:
    """The counters of one proxy, in a separate registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(f"stopping_{name}", what, labels, registry=self.registry)

        self.requests = counter("requests", "Requests by treatment.", "treatment")
        self.unpoliced = counter("unpoliced", "Requests without a policy, by reason.", "reason")
        self.stops = counter("stops", "Thoughts that were stopped.", "policy")
        self.would_stop = counter(
            "would_stop", "Thoughts that would have been stopped, in the shadow and the holdout.", "policy"
        )
        self.put_off = counter("put_off", "Stops put off for lack of an answer.", "policy", "reason")
        self.tokens = counter("tokens", "Tokens generated upstream, by use.", "use")
        self.saved = counter(
            "tokens_saved_expected", "Tokens that stopped thoughts are expected to have saved.", "policy"
        )
        self.faults = counter("faults", "Faults by kind; requests were answered where possible.", "kind")
        self.positions = Histogram(
            "stopping_thought_tokens", "Tokens of thoughts, by treatment.", ["treatment"], buckets=POSITIONS,
            registry=self.registry,
        )  # fmt: skip
        self.seconds = Histogram(
            "stopping_request_seconds", "Time from a request to the end of its answer.", ["treatment"], buckets=SECONDS,
            registry=self.registry,
        )  # fmt: skip
        self.drift = Gauge(
            "stopping_drift_p_value", "P-value for no change since the policy's log; valid at any time.",
            ["policy"], registry=self.registry,
        )  # fmt: skip
        self.alarm = Gauge(
            "stopping_drift_alarm",
            "Whether the policy is disabled because of drift.",
            ["policy"],
            registry=self.registry,
        )
        self.running = Gauge("stopping_running", "Requests under way.", registry=self.registry)
        for kind in FAULTS:
            self.faults.labels(kind)  # shown as 0 from the start

    def text(self) -> bytes:
        """Return all counters in Prometheus's text format."""
        return generate_latest(self.registry)
