"""One chain of thought on a server, stopped by a policy: generated piece by piece, each continuing from the tokens so far.

Between two pieces the model stands still, so a stop has no lag and costs no token: the policy is asked, may look at an answer
forced from where the thought stands, and either the next piece is asked for or the thought is closed there. Every server that
takes prompts of token ids can do that; one that caches prefixes reads each token once.

Nothing else is changed: the pieces together are a sample of what one long request would have given.
"""

import asyncio
import copy
import math
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from stopping.adapters.observations import ThoughtWindows, row_of
from stopping.adapters.policy_rows import PolicyRows
from stopping.adapters.server.capabilities import tokens_of_text
from stopping.adapters.server.client import Completion, End, Upstream, UpstreamError
from stopping.adapters.server.markup import Markup
from stopping.adapters.server.protocol import Token
from stopping.adapters.server.retries import is_passing
from stopping.adapters.server.signals import entropy_of, log_close_prob_of, log_probs_of
from stopping.adapters.server.thought_run import ThoughtRun
from stopping.policies import Kind

RESUME_SECONDS = (0.25, 1.0)  # waited before a piece that failed is asked for again, from the tokens there are
CONTEXT_FULL = 400  # the status with which a thought that fills the model's context is not continued
UNKNOWN = -1  # in the place of a token's id
OPEN, THOUGHT, CLOSE, ANSWER = "open", "thought", "close", "answer"  # the parts of a trace
Part = tuple[str, Token]


class Thinker:
    """A policy on the thoughts of one server.

    Args:
        upstream: the server.
        markup: of its model.
        policy: reads a `ThinkingObservation`; None to let every thought end by itself.
        every_tokens: between decision points.
        cap_tokens: the most that a trace may have.
        num_top: of the likeliest tokens asked for with each token, where the policy reads what needs them.
        tokenizer: of the server, as `Capabilities` has it.
    """

    def __init__(
        self,
        upstream: Upstream,
        markup: Markup,
        policy: Any,
        *,
        every_tokens: int,
        cap_tokens: int,
        num_top: int = 20,
        tokenizer: str = "llama.cpp",
    ) -> None:
        self.upstream, self.markup, self.policy = upstream, markup, policy
        self.every_tokens, self.cap_tokens, self.tokenizer = every_tokens, cap_tokens, tokenizer
        signals = () if policy is None else policy.signals
        self.peeks = "log_close_prob" in signals
        self.num_top = num_top if self.peeks or "mean_entropy" in signals else 0

    def follow(
        self, tokens: AsyncIterator[Token | End], order: Callable[[], Awaitable[None]], run: ThoughtRun
    ) -> AsyncGenerator[Part, None]:
        """Follow a trace that comes as one stream, and have its thought closed from outside when the policy asks for it.

        What comes between the asking and the closing is lag. Answers cannot be forced here: a policy that probes is not for this.

        Args:
            tokens: of the trace, without tags; an `End` comes last.
            order: closes the thought.
            run: is filled in on the way.
        """
        return _Followed(self, tokens, order, run).parts()

    def capped(self, cap_tokens: int) -> "Thinker":
        """Return the same with another cap."""
        other = copy.copy(self)
        other.cap_tokens = cap_tokens
        return other

    async def replay(self, prompt_ids: list[int], tokens: Sequence[Token], reason: str) -> ThoughtRun:
        """Ask the policy about a trace that is there already, and force the answers it wants to see; nothing is stopped.

        Args:
            prompt_ids: up to where the thought begins.
            tokens: of the trace.
            reason: why it ended.

        Raises:
            UpstreamError: if an answer cannot be forced.
        """
        run = ThoughtRun()
        async with aclosing(_Recorded(self, list(prompt_ids), run, tokens, reason).parts()) as parts:
            async for _ in parts:
                pass
        return run

    async def run(self, prompt_ids: list[int], settings: Mapping[str, Any] | None = None) -> ThoughtRun:
        """Think to the end; arguments as of `stream`."""
        run = ThoughtRun()
        async with aclosing(self.stream(prompt_ids, settings, run)) as tokens:
            async for _ in tokens:
                pass
        return run

    def stream(
        self, prompt_ids: list[int], settings: Mapping[str, Any] | None, run: ThoughtRun
    ) -> AsyncGenerator[Part, None]:
        """Think, and yield the trace's tokens as they come, each with the part it belongs to.

        Args:
            prompt_ids: up to where the thought begins.
            settings: of the sampling; a `seed` is moved on by the tokens so far.
            run: is filled in on the way.

        Raises:
            UpstreamError: if the server refuses or breaks off.
        """
        return _Thought(self, list(prompt_ids), dict(settings or {}), run).parts()


class _Thought:
    """One trace under way.

    A policy that reads how likely the thought is closed next needs the law of the next token: pieces then reach one token past
    the decision point, and that token waits (`ahead`) until the policy has been asked. Tokens that may begin the closing tag
    wait as well (`held`), until they are that or are not.
    """

    def __init__(self, thinker: Thinker, prompt_ids: list[int], settings: dict[str, Any], run: ThoughtRun) -> None:
        self.by, self.prompt_ids, self.settings, self.run = thinker, prompt_ids, settings, run
        self.is_open, self.is_closed = thinker.markup.opens(prompt_ids), False
        self.is_observed, self.ending, self.passed_tokens = False, "", 0
        self.ahead: list[Token] = []
        self.held: list[Token] = []
        self.since: list[Token] = []
        if thinker.policy is not None:
            self.rows = PolicyRows(thinker.policy, 1)
            self.windows = ThoughtWindows(thinker.policy.signals, candidate_ids=thinker.markup.candidate_ids)
            run.decisions = self.rows.decisions[0]

    async def parts(self) -> AsyncGenerator[Part, None]:
        run = self.run
        while not run.reason:
            async with aclosing(self._piece()) as piece:
                async for token in piece:
                    for part in self._take(token):
                        yield part
            is_due, self.passed_tokens = self._is_due(), len(run.ids)
            given = await self._decided() if is_due else None
            for token in self.ahead if given is None else given:
                for part in self._take(token):
                    yield part
            self.ahead = []
            if given is not None or self.ending or len(run.ids) >= self.by.cap_tokens:
                run.reason = self.ending or "length"
        if self.is_open and not self.is_closed:
            run.thought_tokens = len(run.ids)
        for token in self.held:
            yield self._thought(token) if self.is_open else self._answer(token)

    def _is_due(self) -> bool:
        """Whether the policy is to be asked here: not amid what may be the closing tag, nor where no answer has room."""
        is_over = (bool(self.ending) and not self.ahead) or bool(self.held)
        return self._is_asked() and not is_over and len(self.run.ids) == self._due() and self._room() > 0

    def _room(self) -> int:
        """Tokens that a forced answer may take, within the cap of the trace."""
        markup = self.by.markup
        return min(markup.answer_tokens, self.by.cap_tokens - len(self.run.ids) - len(markup.tags))

    def _is_asked(self) -> bool:
        """Whether there are decisions left to take, or, of a trace that is only looked at, to see."""
        run = self.run
        is_thinking = self.is_open and not self.is_closed
        is_left = self.is_observed or run.would_stop_at is None
        return self.by.policy is not None and is_thinking and not run.failure and is_left

    def _due(self) -> int:
        """The decision point that this piece goes up to; where the thought stands, if that is one and was reached now."""
        return -(-max(len(self.run.ids), self.passed_tokens + 1) // self.by.every_tokens) * self.by.every_tokens

    async def _piece(self) -> AsyncGenerator[Token, None]:
        """Go on, to the next decision point at most; what is beyond it waits.

        Where one long request would have gone on, this does: a server too busy for the next piece, or that breaks off amid one,
        is asked again from the tokens there are.
        """
        waits = deque(RESUME_SECONDS)
        while True:
            try:
                async with aclosing(self._piece_once()) as piece:
                    async for token in piece:
                        yield token
                return
            except UpstreamError as error:
                if self.run.ids and error.status == CONTEXT_FULL:
                    self.ending = "length"
                    return
                if not (self.run.ids and waits and is_passing(error)) or error.timed_out:
                    raise
            self.run.num_resumed += 1
            self._drop_ahead()
            await asyncio.sleep(waits.popleft())

    async def _piece_once(self) -> AsyncGenerator[Token, None]:
        run = self.run
        most = self.by.cap_tokens - len(run.ids)
        if self._is_asked():
            most = min(most, self._due() - len(run.ids) + self.by.peeks)
        asked = dict(self.settings)
        if isinstance(seed := asked.get("seed"), int) and seed >= 0:  # below 0: any, to llama.cpp
            asked["seed"] = (seed + len(run.ids)) % 2**31
        run.num_requests += 1
        came = 0
        prompt = [*self.prompt_ids, *run.ids]
        async with aclosing(self.by.upstream.stream(prompt, most, num_top=self.by.num_top, **asked)) as pieces:
            async for piece in pieces:
                if isinstance(piece, End):
                    self._account(piece)
                    num_tokens = came if piece.num_tokens is None else piece.num_tokens
                    is_whole = piece.reason == "length" and num_tokens >= most
                    self.ending = "" if is_whole else piece.reason
                    if is_whole and num_tokens > came:
                        await self._find_lost_tokens()
                    return
                for token in [piece] if piece.id is not None else await self._with_ids(piece):
                    came += 1
                    if self._waits():
                        self.ahead.append(token)
                    else:
                        yield token

    def _waits(self) -> bool:
        """Whether the next token lies beyond the decision point."""
        return self._is_asked() and len(self.run.ids) == self._due()

    async def _with_ids(self, token: Token) -> list[Token]:
        """The tokens of a piece of text whose ids the server did not send; the text stands at the last."""
        ids = await tokens_of_text(self.by.upstream, token.text, self.by.tokenizer, start=False) if token.text else []
        return [token._replace(text=token.text if at == len(ids) - 1 else "", id=each) for at, each in enumerate(ids)]

    async def _find_lost_tokens(self) -> None:
        """Take the tokens of the text so far, where the server kept some back (llama.cpp: parts of a character)."""
        self._drop_ahead()
        self.run.ids = await tokens_of_text(self.by.upstream, self.run.text, self.by.tokenizer, start=False)
        if self.by.policy is not None:
            self.windows.elapsed_tokens[0] = len(self.run.ids) - len(self.since)

    def _drop_ahead(self) -> None:
        self.run.discarded_tokens += len(self.ahead)
        self.ahead = []

    def _account(self, end: End) -> None:
        self.run.prompt_tokens += max((end.num_prompt_tokens or 0) - (end.num_cached_tokens or 0), 0)

    def _take(self, token: Token) -> list[Part]:
        """Add a token to the trace; return those whose part is known now."""
        run, close_ids = self.run, self.by.markup.close_ids
        run.ids.append(UNKNOWN if token.id is None else token.id)
        run.text += token.text
        if self.is_closed:
            return [self._answer(token)]
        tag = close_ids if self.is_open else self.by.markup.open_ids
        if self.is_open and not self.held and token.id != tag[0]:  # nearly all of them
            return [self._thought(token)]
        self.held.append(token)
        held = tuple(each.id for each in self.held)
        if held == tag:
            found, self.held = self.held, []
            if not self.is_open:
                self.is_open = True
                return [(OPEN, each) for each in found]
            self.is_closed, run.thought_tokens = True, len(run.ids) - len(held)
            return [(CLOSE, each) for each in found]
        if not self.is_open and held != tag[: len(held)]:  # no thought at all
            self.is_closed, found, self.held = True, self.held, []
            return [self._answer(each) for each in found]
        known = []
        while self.held and tuple(each.id for each in self.held) != tag[: len(self.held)]:
            known.append(self._thought(self.held.pop(0)))
        return known

    def _thought(self, token: Token) -> Part:
        self.run.thought += token.text
        if self._is_asked():
            self.since.append(token)
        return THOUGHT, token

    def _answer(self, token: Token) -> Part:
        self.run.answer += token.text
        return ANSWER, token

    async def _decided(self) -> list[Token] | None:
        """Ask the policy; return the tokens that end the trace if it is stopped here.

        If it fails, whatever the reason, the thought goes on without it.
        """
        try:
            return await self._decide()
        except Exception as error:
            self.run.failure = f"{type(error).__name__}: {error}"
            return None

    async def _decide(self) -> list[Token] | None:
        run, position = self.run, len(self.run.ids)
        observation = self._seen()
        if run.would_stop_at is not None:
            return None
        kinds, _ = self.rows.ask(observation, [0])
        forced: Completion | None = None
        if kinds[0] == Kind.PROBE:
            forced = await self._force()
            kinds, _ = self.rows.ask(self.windows.probed(observation, [self._key(forced)], *log_probs_of(forced)), [0])
        stops = kinds[0] == Kind.STOP
        if stops:
            forced = forced or await self._force()
            if stops := self._key(forced) is not None:
                run.would_stop_at, run.would_answer = position, self.by.markup.answer_prefix + forced.text
            else:  # an answer is never empty because we stopped
                self.rows.put_off(0)
                run.num_too_long += forced.end.reason == "length" and self._room() == self.by.markup.answer_tokens
        if not stops or self.is_observed:
            run.probe_tokens += 0 if forced is None else self._cost(forced)
            return None
        assert forced is not None
        self._drop_ahead()
        run.stopped, self.ending = True, forced.end.reason
        markup = self.by.markup
        tags = [Token(text, number) for text, number in markup.tags]
        return [*tags, *forced.tokens]

    def _seen(self) -> Any:
        """What there is to see here; tokens are added to their window at once, as a proxy has many thoughts under way."""
        tokens, self.since = self.since, []
        ids = [UNKNOWN if token.id is None else token.id for token in tokens]
        log_probs = [math.nan if token.log_prob is None else token.log_prob for token in tokens]
        entropies = None
        if "mean_entropy" in self.by.policy.signals:
            entropies = [math.nan if (known := entropy_of(token)) is None else known for token in tokens]
        self.windows.add(ids, log_probs, entropies)
        observation = self.windows.observe(self._log_close_prob())
        self.run.last_seen = row_of(observation, 0)
        return observation

    def _log_close_prob(self) -> float | None:
        """Of closing the thought here, by the law from which the next token was drawn; None where that does not tell."""
        return log_close_prob_of(self.ahead[0], self.by.markup) if self.ahead else None

    async def _force(self) -> Completion:
        """Close the thought here and let the model answer, greedily."""
        markup, run = self.by.markup, self.run
        prompt = [*self.prompt_ids, *run.ids, *markup.close_ids, *markup.answer_ids]
        run.num_requests += 1
        kept = {name: value for name, value in self.settings.items() if name != "seed"}
        found = await self.by.upstream.complete(prompt, self._room(), num_top=0, **kept | {"temperature": 0.0})
        self._account(found.end)
        return found

    def _key(self, forced: Completion) -> str | None:
        """What a forced answer counts as, as the client would read it; None if it did not end, or is nothing but its prefix."""
        markup, is_answer = self.by.markup, forced.end.reason == "stop" and bool(forced.text.strip())
        return markup.answer_of(markup.answer_prefix + forced.text) if is_answer else None

    def _cost(self, forced: Completion) -> int:
        markup = self.by.markup
        return len(markup.close_ids) + len(markup.answer_ids) + (forced.end.num_tokens or len(forced.tokens))


class _Recorded(_Thought):
    """A trace that is there already."""

    def __init__(
        self, thinker: Thinker, prompt_ids: list[int], run: ThoughtRun, tokens: Sequence[Token], reason: str
    ) -> None:
        super().__init__(thinker, prompt_ids, {}, run)
        self.is_observed, self.left, self.how = True, deque(tokens), reason

    async def _piece(self) -> AsyncGenerator[Token, None]:
        while self.left:
            if self._waits():
                if self.by.peeks:
                    self.ahead.append(self.left.popleft())
                break
            yield self.left.popleft()
        self.ending = "" if self.left else self.how


class _Followed(_Thought):
    """A trace that comes as one stream, whose thought is closed by order."""

    def __init__(
        self,
        thinker: Thinker,
        tokens: AsyncIterator[Token | End],
        order: Callable[[], Awaitable[None]],
        run: ThoughtRun,
    ) -> None:
        super().__init__(thinker, [], {}, run)
        self.tokens, self.order = tokens, order
        self.waiting: deque[Token] = deque()

    async def _piece(self) -> AsyncGenerator[Token, None]:
        while True:
            if not self.waiting:
                token = await anext(self.tokens)
                if isinstance(token, End):
                    self.ending = token.reason
                    return
                self._place(token)
            token = self.waiting.popleft()
            if self._waits():
                if self.by.peeks:
                    self.ahead.append(token)
                else:
                    self.waiting.appendleft(token)
                return
            yield token

    def _place(self, token: Token) -> None:
        """Tell the thought from the answer, and put the tag between them where the server leaves it out."""
        if not self.run.ids and not self.ahead:
            self.is_open, self.is_closed = token.reasoning, not token.reasoning
        elif self.is_open and not self.is_closed and not token.reasoning and token.id not in self.by.markup.close_ids:
            size = len(self.by.markup.close_ids)
            self.waiting.extend(Token(text, number, reasoning=True) for text, number in self.by.markup.tags[:size])
        self.waiting.append(token)

    async def _decide(self) -> list[Token] | None:
        run, position = self.run, len(self.run.ids)
        kinds, _ = self.rows.ask(self._seen(), [0])
        if kinds[0] == Kind.STOP and self._room() < self.by.markup.answer_tokens:
            self.rows.put_off(0)
        elif kinds[0] == Kind.STOP:
            run.would_stop_at = position
            await self.order()
            run.stopped = True
        return None
