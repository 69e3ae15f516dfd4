"""Thinking: one chain of thought, forced answers on the way, and when to stop it.

A trace thinks, closes its thought by itself at some point, and answers. At decision points on the way (a log's checkpoints past
its first token) a policy sees a `ThinkingObservation`, and may

    CONTINUE      think on
    PROBE         force an answer, look at it, and decide again at the same point
    STOP          close the thought and answer

A stop takes effect `lag_tokens` later, at the first decision point there or after, because no log has the answers in between. If
the thought ends before, the trace gives its own answer. A probe costs its tokens (the closing tag and the answer) and the reading
of all tokens before it, and so does an answer that a stop forces. A probe's answer is given where the policy stops on it at once.
A stop never makes an answer empty: if the forced answer is empty, it is paid for, and the trace thinks on.

    utility = [the answer is right] - price_per_token * tokens - price_per_prefill_token * tokens read again
              - price_per_second * seconds

with seconds = seconds_per_token * tokens + seconds_per_prefill_token * tokens read again: probes delay the trace.
"""

from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from stopping.models.answer_chain import AnswerChain, Thought
from stopping.policies import NO_ANSWER, THINKING, Decision, Kind, ThinkingObservation, TokenBudget, bind
from stopping.policies.checks import whole_number
from stopping.policies.decisions import PROBED_SIGNALS
from stopping.problems.accuracy import accuracy_loss, priced_cost
from stopping.problems.admission import PolicyMismatch
from stopping.problems.problem import CORRECT, LATENCY_SECONDS, LATENCY_TOKENS, TOTAL_TOKENS, UTILITY, Component
from stopping.problems.thinking_worlds import NEVER, ThinkingWorld, log_of, logged_worlds
from stopping.traces import TraceLog

NUM_BUDGETS = 24  # compared with, at quantiles of the positions of decision points


class ThinkingOutcome(NamedTuple):
    """The outcome of a policy in one trace; `[]` each.

    Attributes:
        utility: as in the module's head.
        correct: the answer given is right.
        total_tokens: thought, answers and probes.
        latency_tokens: the same: all come one after another.
        latency_seconds: with the time that reading again takes.
        thought_tokens: thought before the closing tag; all of the trace where it answered by itself.
        probe_tokens: of probes and forced answers that were not given.
        prefill_tokens: read again for probes and forced answers.
        stopped: the thought was stopped, and did not end by itself.
        answer: label of the answer given, within the log's problem; `NO_ANSWER` if none.
        unsupported: the log does not say whether the answer given is right.
    """

    utility: Float[Array, ""]
    correct: Bool[Array, ""]
    total_tokens: Int[Array, ""]
    latency_tokens: Int[Array, ""]
    latency_seconds: Float[Array, ""]
    thought_tokens: Int[Array, ""]
    probe_tokens: Int[Array, ""]
    prefill_tokens: Int[Array, ""]
    stopped: Bool[Array, ""]
    answer: Int[Array, ""]
    unsupported: Bool[Array, ""]


class _Run(NamedTuple):
    """The state of a trace: what was paid so far and, once stopped, at which decision point it answers."""

    probe_tokens: Array
    prefill_tokens: Array
    ended: Array  # bool: no decision is left to take
    stop_index: Array  # the decision point whose answer is given; their number where the trace answers by itself


class _Point(NamedTuple):
    """A decision point: what does not depend on the policy; `[points]` each."""

    number: Array  # from 0
    thinks: Array  # the trace gets there
    shown: ThinkingObservation  # to a policy that probes
    probe_cost_tokens: Array
    effect: Array  # the decision point where a stop decided here takes effect; their number if the trace ends before
    effect_tokens: Array  # its position
    effect_cost_tokens: Array  # of the answer forced there
    empty: Array  # no answer comes there


class Thinking(eqx.Module):
    """When to stop a chain of thought.

    Attributes:
        model: draws the worlds; None to replay logs alone.
        price_per_token, price_per_prefill_token, price_per_second: in units of one right answer.
        seconds_per_token: of decoding.
        seconds_per_prefill_token: of reading again.
        lag_tokens: between a stop and its effect.
        accepts_empty: a forced answer is given even if it is empty, as by an engine's own thinking budget.

    Raises:
        ValueError: naming the argument, if a price is negative or not finite, or the lag no whole number.
    """

    model: AnswerChain | None
    price_per_token: Float[Array, ""]
    price_per_prefill_token: Float[Array, ""]
    price_per_second: Float[Array, ""]
    seconds_per_token: Float[Array, ""]
    seconds_per_prefill_token: Float[Array, ""]
    lag_tokens: Int[Array, ""]
    accepts_empty: bool = eqx.field(static=True)

    decision: ClassVar[Decision] = THINKING
    components: ClassVar[tuple[Component, ...]] = (
        CORRECT,
        UTILITY,
        TOTAL_TOKENS,
        LATENCY_TOKENS,
        LATENCY_SECONDS,
        Component("thought_tokens", "thought, tokens"),
        Component("probe_tokens", "probes paid in vain, tokens"),
        Component("prefill_tokens", "read again, tokens"),
        Component("stopped", "thoughts stopped, %", 0.01),
    )
    has_orders: ClassVar[bool] = False

    def __init__(
        self,
        *,
        model: AnswerChain | None = None,
        price_per_token: float = 0.0,
        price_per_prefill_token: float = 0.0,
        price_per_second: float = 0.0,
        seconds_per_token: float = 0.02,
        seconds_per_prefill_token: float = 0.0,
        lag_tokens: int = 0,
        accepts_empty: bool = False,
    ) -> None:
        prices = {
            "price_per_token": price_per_token, "price_per_prefill_token": price_per_prefill_token,
            "price_per_second": price_per_second, "seconds_per_token": seconds_per_token,
            "seconds_per_prefill_token": seconds_per_prefill_token,
        }  # fmt: skip
        for name, number in prices.items():
            if not np.isfinite(number) or number < 0:
                raise ValueError(f"{name}: expected a number >= 0, got {number!r}")
        self.model = model
        self.price_per_token, self.price_per_prefill_token, self.price_per_second = (
            jnp.asarray(prices[name], float) for name in list(prices)[:3]
        )
        self.seconds_per_token, self.seconds_per_prefill_token = (
            jnp.asarray(prices[name], float) for name in list(prices)[3:]
        )
        self.lag_tokens = jnp.asarray(whole_number("lag_tokens", lag_tokens, 0, int(NEVER) - 1), jnp.int32)
        self.accepts_empty = bool(accepts_empty)

    def draw(self, key: Key[Array, ""]) -> ThinkingWorld:
        """Draw a world from the model.

        Raises:
            ValueError: without a model.
        """
        return self._world(self._drawn_from().draw(key))

    @property
    def num_uniforms(self) -> int:
        """How many numbers `from_uniforms` takes.

        Raises:
            ValueError: without a model.
        """
        return self._drawn_from().num_uniforms

    def from_uniforms(self, uniforms: Float[Array, " uniforms"]) -> ThinkingWorld:
        """Return a world as a function of independent uniform numbers in (0, 1), distributed as by `draw`.

        For points that are more even than independent ones (`sims.variance`).

        Raises:
            ValueError: without a model.
        """
        return self._world(self._drawn_from().from_uniforms(uniforms))

    def _drawn_from(self) -> AnswerChain:
        if self.model is None:
            raise ValueError("model: expected a model to draw worlds from, got None; replay needs none")
        return self.model

    def _world(self, thought: Thought) -> ThinkingWorld:
        known = jnp.ones(thought.probe_right.shape, bool)
        return ThinkingWorld(*thought, probe_known=known, problem=jnp.zeros((), jnp.int32))

    def play(self, world: ThinkingWorld, policy: Any) -> ThinkingOutcome:
        """Run the policy through a world.

        Raises:
            PolicyMismatch: if the policy reads a signal that the world does not hold.
        """
        _require_signals(policy, world)
        bound, num_points = bind(policy, "jax"), world.position_tokens.shape[0]
        position = world.position_tokens
        effect = jnp.searchsorted(position, position + self.lag_tokens).astype(jnp.int32)
        last = jnp.asarray(num_points, jnp.int32)
        points = _Point(
            number=jnp.arange(num_points, dtype=jnp.int32),
            thinks=position < NEVER,
            shown=_observe(world),
            probe_cost_tokens=world.probe_cost_tokens,
            effect=jnp.where((effect < num_points) & (position[effect] < NEVER), effect, last),
            empty=(world.probe_answer[effect] == NO_ANSWER) & (not self.accepts_empty),
            effect_cost_tokens=world.probe_cost_tokens[effect],
            effect_tokens=position[effect],
        )

        def is_asked(kind: Kind, action: Any) -> Array:
            return (action.kind == kind.value) & (kind in policy.kinds)

        def at(carry: tuple[Any, _Run], point: _Point) -> tuple[tuple[Any, _Run], None]:
            policy_state, run = carry
            open_ = ~run.ended & point.thinks
            state, action = bound.step(policy_state, _unprobed(point.shown))
            probed = is_asked(Kind.PROBE, action)
            if Kind.PROBE in policy.kinds:
                pair = state, bound.step(state, point.shown)
                state = jax.tree.map(lambda before, after: jnp.where(probed, after, before), pair[0], pair[1][0])
                action = jax.tree.map(lambda before, after: jnp.where(probed, after, before), action, pair[1][1])
            stop = is_asked(Kind.STOP, action)
            free = probed & (point.effect == point.number)  # the probe is the answer
            in_time = stop & (point.effect < num_points)
            empty = in_time & point.empty
            stops = stop & ~empty
            # paid in vain: a probe that is not the answer given, and a forced answer that is none
            in_vain = jnp.where(probed & ~(stops & free), point.probe_cost_tokens, 0)
            in_vain += jnp.where(empty & ~free, point.effect_cost_tokens, 0)
            read = jnp.where(probed, point.shown.elapsed_tokens, 0)
            read += jnp.where(in_time & ~free, point.effect_tokens, 0)
            spent = run.probe_tokens + in_vain, run.prefill_tokens + read
            later = _Run(*spent, stops, jnp.where(stops, point.effect, last))
            now = jax.tree.map(
                lambda before, after: jnp.where(open_, after, before), (policy_state, run), (state, later)
            )
            return now, None

        zero, no = jnp.zeros((), jnp.int32), jnp.zeros((), bool)
        start = bound.init(()), _Run(zero, zero, no, last)
        (_, run), _ = jax.lax.scan(at, start, points)
        return self._priced(world, run.stop_index, run.probe_tokens, run.prefill_tokens)

    def _priced(self, world: ThinkingWorld, index: Array, probe_tokens: Any, prefill_tokens: Any) -> ThinkingOutcome:
        """Return the outcome of answering at a decision point, or, past the last one, of the trace's own answer."""
        stopped = index < world.position_tokens.shape[0]
        pick = lambda there, own: jnp.where(stopped, there[index], own)  # noqa: E731
        thought = pick(world.position_tokens, world.length_tokens)
        total = thought + jnp.where(stopped, world.probe_cost_tokens[index], 0) + probe_tokens
        unsupported = stopped & ~world.probe_known[index]
        correct = pick(world.probe_right, world.right) & ~unsupported
        seconds = total * self.seconds_per_token + prefill_tokens * self.seconds_per_prefill_token
        cost = self.price_per_token * total + self.price_per_prefill_token * prefill_tokens
        return ThinkingOutcome(
            utility=correct - cost - self.price_per_second * seconds,
            correct=correct,
            total_tokens=total,
            latency_tokens=total,
            latency_seconds=seconds,
            thought_tokens=thought,
            probe_tokens=jnp.asarray(probe_tokens, jnp.int32),
            prefill_tokens=jnp.asarray(prefill_tokens, jnp.int32),
            stopped=stopped,
            answer=pick(world.probe_answer, world.answer),
            unsupported=unsupported,
        )

    def priced(self, price_per_token: float) -> "Thinking":
        """Return the same problem at another price of a token."""
        return eqx.tree_at(lambda problem: problem.price_per_token, self, jnp.asarray(price_per_token, float))

    @property
    def native(self) -> "Thinking":
        """The problem as an engine's own thinking budget plays it: without a lag, and what it forces is given in any case."""
        return Thinking(accepts_empty=True)

    def hindsight(self, world: ThinkingWorld) -> ThinkingOutcome:
        """Return the outcome of the clairvoyant, who stops where it is worth most, without a probe. No policy does better."""
        world = jax.tree.map(jnp.asarray, world)
        index = jnp.arange(world.position_tokens.shape[0] + 1)
        read = jnp.where(index < len(index) - 1, jnp.append(world.position_tokens, 0), 0)
        outcomes = jax.vmap(lambda i, tokens: self._priced(world, i, 0, tokens))(index, read)
        answers = jnp.append(
            (world.position_tokens < NEVER) & (self.accepts_empty | (world.probe_answer != NO_ANSWER)), True
        )
        best = jnp.argmax(jnp.where(answers, outcomes.utility, -jnp.inf))
        return jax.tree.map(lambda values: values[best], outcomes)

    def loss(self, outcome: ThinkingOutcome, reference: ThinkingOutcome, judged: bool = True) -> Any:
        """Return the accuracy lost against the reference rule; without labels, whether the answers differ."""
        return accuracy_loss(outcome, reference, judged)

    def cost(self, outcome: ThinkingOutcome) -> Any:
        """Return what tokens, tokens read again and seconds cost; tokens where none has a price."""
        return priced_cost(
            outcome.total_tokens,
            (self.price_per_token, outcome.total_tokens),
            (self.price_per_prefill_token, outcome.prefill_tokens),
            (self.price_per_second, outcome.latency_seconds),
        )

    def lossless(self, policy: Any, reference: Any) -> bool:
        """Return False but for the reference itself: there is no proof about answers given earlier."""
        return bool(policy == reference)

    def interval_tokens(self, log: TraceLog) -> int | None:
        """Return the tokens between a log's checkpoints."""
        return None if log.checkpoints is None else log.checkpoints.interval_tokens

    def fixed_rules(self, worlds: ThinkingWorld) -> list[TokenBudget]:
        """Return the rules that do not adapt: budgets over the worlds' decision points, and thinking to the end."""
        positions = np.asarray(worlds.position_tokens)
        budgets = np.quantile(positions[positions < NEVER], np.linspace(0, 1, NUM_BUDGETS), method="nearest")
        return [*(TokenBudget(int(tokens)) for tokens in np.unique(budgets)), TokenBudget(int(NEVER))]

    def worlds(self, log: TraceLog, *, num_orders: int = 1, seed: int = 0, judged: bool = True) -> ThinkingWorld:
        """Return the worlds of a log, with leading axes `[problems, samples]`: each trace is one episode.

        A problem with fewer samples than another repeats its own in turn. Decision points are the checkpoints past a trace's
        first token. A signal is there if every decision point has it.

        Args:
            log: with checkpoints on every problem (`log.take(log.probed)`), forced answers and known correctness.
            num_orders: 1: one trace has no order.
            seed: not used.
            judged: False where only answers are compared: correctness may then be unknown, and counts as wrong.

        Raises:
            ValueError: naming what is missing; if `num_orders` is not 1; if checkpoints lie at fractions of the final length,
                which a live run does not know.
        """
        if num_orders != 1:
            raise ValueError(f"num_orders: expected 1, for each trace is an episode by itself, got {num_orders!r}")
        return logged_worlds(log, judged)

    def log(self, worlds: ThinkingWorld) -> TraceLog:
        """Return worlds `[problems]` as a log with one sample each, as if they had been recorded."""
        return log_of(worlds)

    def reference_rule(self, log: TraceLog) -> TokenBudget:
        """Return the rule that produced the log's answers: its budget, or thinking to the end, the largest budget."""
        if log.reference.kind == "budget":
            return TokenBudget(log.reference.amount)
        return TokenBudget(int(log.cap_tokens or log.length_tokens.max()))


def _require_signals(policy: Any, world: ThinkingWorld) -> None:
    there = {"elapsed_tokens", "probed", "probed_answer", *world.signals}
    if missing := [signal for signal in policy.signals if signal not in there]:
        raise PolicyMismatch(
            f"{type(policy).__name__} reads {', '.join(missing)}; these traces have {', '.join(sorted(there))}"
        )


def _observe(world: ThinkingWorld) -> ThinkingObservation:
    """Return what a policy sees at each decision point if it probes there, `[points]`; missing signals are 0."""
    shown = {"elapsed_tokens": world.position_tokens, "probed_answer": world.probe_answer}
    shown["probed"] = jnp.ones(world.position_tokens.shape, bool)
    for name in ThinkingObservation._fields:
        if name not in shown:
            value = world.signals.get(name, jnp.zeros(world.position_tokens.shape))
            shown[name] = value.astype(THINKING.dtype_of(name))
    return ThinkingObservation(**shown)


def _unprobed(shown: ThinkingObservation) -> ThinkingObservation:
    """Return what a policy sees before it probes."""
    nothing = {name: jnp.zeros_like(getattr(shown, name)) for name in PROBED_SIGNALS}
    return shown._replace(**nothing | {"probed_answer": jnp.full_like(shown.probed_answer, NO_ANSWER)})
