"""One chain of thought under way on a server, and the policy's decisions about it.

The trace is generated piece by piece, each piece continuing from the tokens so far. This does not change its distribution: the
pieces together are a sample of what one long request would have given.
"""

import asyncio
import math
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from stopping.adapters.server.capabilities import tokens_of_text
from stopping.adapters.server.client import Completion, End, UpstreamError
from stopping.adapters.server.markup import may_be_tag, text_after
from stopping.adapters.server.protocol import Token
from stopping.adapters.server.retries import is_passing
from stopping.adapters.server.room import Room, refuses
from stopping.adapters.server.signals import entropy_of, log_close_prob_of, log_probs_of
from stopping.adapters.server.thought_result import ThoughtResult
from stopping.adapters.server.thought_settings import ThoughtSettings
from stopping.policies import Kind
from stopping.policies.rows import PolicyRows
from stopping.policies.windows import ThoughtWindows, row_of
from stopping.traces.endings import is_cut, is_known, is_natural

RESUME_SECONDS = (0.25, 1.0, 2.0, 4.0)  # waits before a piece that failed is requested again
MOST_ASKED = 32_768  # maximum tokens of a piece: a trace without a cap takes several
UNKNOWN = -1  # replaces an unknown token id
OPEN, THOUGHT, CLOSE, ANSWER = "open", "thought", "close", "answer"  # the parts of a trace
Part = tuple[str, Token]


class Thought:
    """One trace under way.

    A policy that reads the probability of closing the thought next needs the distribution of the next token. Pieces then extend
    one token past the decision point, and that token waits (`ahead`) until the policy has been asked. Tokens that may begin a
    tag also wait (`held`) until it is known whether they do. A thought is opened at the end of the prompt, or by the first
    tokens of the trace; blanks before these wait, too.

    Args:
        settings: the policy and the server.
        prompt_ids: the prompt, up to where the thought begins.
        sampling: sampling parameters of the requests.
        result: filled in as tokens arrive.
    """

    def __init__(
        self, settings: ThoughtSettings, prompt_ids: list[int], sampling: dict[str, Any], result: ThoughtResult
    ) -> None:
        self.settings, self.prompt_ids, self.sampling, self.result = settings, prompt_ids, sampling, result
        self.is_open, self.is_closed = settings.markup.opens(prompt_ids), False
        self.is_observed, self.ending, self.passed_tokens = False, "", 0
        self.cut_word, self.room = "length", Room(settings.upstream)
        self.asked_tokens = 0  # by the last piece
        self.blanks: list[Token] = []
        self.ahead: list[Token] = []
        self.held: list[Token] = []
        self.since: list[Token] = []
        if settings.policy is not None:
            self.rows = PolicyRows(settings.policy, 1)
            self.windows = ThoughtWindows(settings.policy.signals, candidate_ids=settings.markup.candidate_ids)
            result.decisions = self.rows.decisions[0]

    async def parts(self) -> AsyncGenerator[Part, None]:
        """Yield the trace's tokens as they arrive, each with the part of the trace that it belongs to.

        Raises:
            UpstreamError: if the server refuses or breaks off.
        """
        result = self.result
        while not result.reason:
            async with aclosing(self._piece()) as piece:
                async for token in piece:
                    for part in self._take(token):
                        yield part
            if self._lacks_ahead():
                continue
            is_due, self.passed_tokens = self._is_due(), len(result.ids)
            given = await self._decided() if is_due else None
            for token in self.ahead if given is None else given:
                for part in self._take(token):
                    yield part
            self.ahead = []
            if given is not None or self.ending or len(result.ids) >= self.settings.cap_tokens:
                result.reason = self.ending or self.cut_word
        if self.is_open and not self.is_closed:
            result.thought_tokens = len(result.ids)
        for token in (*self.blanks, *self.held):
            yield self._thought(token) if self.is_open else self._answer(token)

    def _is_due(self) -> bool:
        """Whether the policy is asked here: not within a possible closing tag, nor where there is no room for an answer."""
        is_over = (bool(self.ending) and not self.ahead) or bool(self.held)
        return self._is_asked() and not is_over and len(self.result.ids) == self._due() and self._room() > 0

    def _lacks_ahead(self) -> bool:
        """Whether the token whose distribution the policy reads has not arrived: the server gave fewer tokens than requested."""
        is_there = bool(self.ahead or self.ending) or len(self.result.ids) >= self.settings.cap_tokens
        return self.settings.peeks and not is_there and self._is_asked() and len(self.result.ids) == self._due()

    def _room(self) -> int:
        """The maximum length of a forced answer within the cap of the trace."""
        markup = self.settings.markup
        return min(markup.answer_tokens, self.settings.cap_tokens - len(self.result.ids) - len(markup.tags))

    def _is_asked(self) -> bool:
        """Whether the policy still has decisions to make or, if the trace is only observed, to note."""
        return self.is_open and self._may_be_asked()

    def _may_be_asked(self) -> bool:
        """The same, also for a trace that has not opened its thought yet."""
        result = self.result
        is_left = self.is_observed or result.would_stop_at is None
        return self.settings.policy is not None and not self.is_closed and not result.failure and is_left

    def _due(self) -> int:
        """The decision point that this piece extends to: the current position if it is one and has just been reached."""
        return (
            -(-max(len(self.result.ids), self.passed_tokens + 1) // self.settings.every_tokens)
            * self.settings.every_tokens
        )

    async def _piece(self) -> AsyncGenerator[Token, None]:
        """Generate up to the next decision point; tokens beyond it wait.

        Wherever one long request would have continued, so does this. A server that is too busy for the next piece, or breaks off
        during one, is asked again from the tokens so far; one that refuses is asked for fewer tokens, down to one.
        """
        waits, fewer, refusal = deque(RESUME_SECONDS), None, None
        while True:
            try:
                async with aclosing(self._piece_once(fewer)) as piece:
                    async for token in piece:
                        yield token
                return
            except UpstreamError as error:
                if refuses(error):
                    refusal = refusal or error
                    num_prompt, has_begun = len(self.prompt_ids) + len(self.result.ids), bool(self.result.ids)
                    fewer = await self.room.fewer(error, num_prompt, self.asked_tokens, has_begun=has_begun)
                    self._drop_ahead()
                    if fewer is not None:
                        continue
                    if not has_begun:
                        raise refusal from None
                    self.ending = self.cut_word  # the context is full
                    return
                if not (self.result.ids and waits and is_passing(error)) or error.timed_out:
                    raise
            self.result.num_resumed += 1
            self._drop_ahead()
            await asyncio.sleep(waits.popleft())

    async def _piece_once(self, fewer: int | None) -> AsyncGenerator[Token, None]:
        result = self.result
        most = min(self.settings.cap_tokens - len(result.ids), MOST_ASKED)
        if self._may_be_asked():
            most = min(most, self._due() - len(result.ids) + self.settings.peeks)
        num_prompt = len(self.prompt_ids) + len(result.ids)
        most = self.asked_tokens = min(self.room.most(num_prompt, most), MOST_ASKED if fewer is None else fewer)
        asked = dict(self.sampling)
        if isinstance(seed := asked.get("seed"), int) and seed >= 0:  # llama.cpp reads a negative seed as random
            asked["seed"] = (seed + len(result.ids)) % 2**31
        result.num_requests += 1
        came = 0
        prompt = [*self.prompt_ids, *result.ids]
        async with aclosing(
            self.settings.upstream.stream(prompt, most, num_top=self.settings.asked_top, **asked)
        ) as pieces:
            async for piece in pieces:
                self.room.accepted(num_prompt, most)
                if isinstance(piece, End):
                    self._account(piece)
                    self.ending = piece.reason
                    if is_cut(piece.reason) or (came >= most and not is_known(piece.reason)):
                        await self._see_cut(piece, came, most)
                    return
                for token in [piece] if piece.id is not None else await self._with_ids(piece):
                    came += 1
                    if self._waits():
                        self.ahead.append(token)
                    else:
                        yield token

    async def _see_cut(self, end: End, came: int, most: int) -> None:
        """Decide whether a piece that was cut is complete, so that the trace continues.

        The server's count includes tokens that it held back. Where the count is missing or impossible, the tokens that arrived
        are counted, and another request shows whether there is room for more.
        """
        num_tokens, self.cut_word = end.counted(came, most), end.reason
        is_unsure = num_tokens != end.num_tokens and came > 0
        if num_tokens >= most or is_unsure:
            self.ending = ""
            if num_tokens > came:
                await self._find_lost_tokens()

    def _waits(self) -> bool:
        """Whether the next token is beyond the decision point."""
        return self._is_asked() and len(self.result.ids) == self._due()

    async def _with_ids(self, token: Token) -> list[Token]:
        """The tokens of a piece of text whose ids the server did not send; the last token holds the text."""
        ids = (
            await tokens_of_text(self.settings.upstream, token.text, self.settings.tokenizer, start=False)
            if token.text
            else []
        )
        return [token._replace(text=token.text if at == len(ids) - 1 else "", id=each) for at, each in enumerate(ids)]

    async def _find_lost_tokens(self) -> None:
        """Tokenise the text so far again, where the server held tokens back (llama.cpp: parts of a character)."""
        self._drop_ahead()
        self.result.ids = await tokens_of_text(
            self.settings.upstream, self.result.text, self.settings.tokenizer, start=False
        )
        if self.settings.policy is not None:
            self.windows.elapsed_tokens[0] = len(self.result.ids) - len(self.since)

    def _drop_ahead(self) -> None:
        self.result.discarded_tokens += len(self.ahead)
        self.ahead = []

    def _account(self, end: End) -> None:
        self.result.prompt_tokens += max((end.num_prompt_tokens or 0) - (end.num_cached_tokens or 0), 0)

    def _take(self, token: Token) -> list[Part]:
        """Add a token to the trace; return the tokens whose part is now known."""
        result, markup = self.result, self.settings.markup
        result.ids.append(UNKNOWN if token.id is None else token.id)
        result.text += token.text
        if self.is_closed:
            return [self._answer(token)]
        tag = (markup.close_ids, markup.close) if self.is_open else (markup.open_ids, markup.open)
        begins = bool(self.held) or token.id == tag[0][0]
        if not begins and len(tag[0]) > 1:
            begins = may_be_tag([token], *tag) or text_after([token], *tag) is not None
        if self.is_open and not begins:  # nearly all tokens
            return [self._thought(token)]
        if not self.is_open and not begins and markup.is_blank(token):
            self.blanks.append(token)
            return []
        self.held.append(token)
        if (rest := text_after(self.held, *tag)) is not None:
            found, self.held = self.held, []
            if rest:
                found[-1] = found[-1]._replace(text=found[-1].text.removesuffix(rest))
            if not self.is_open:
                self.is_open, found, self.blanks = True, [*self.blanks, *found], []
                if self._is_asked():
                    self.since += found  # as in a recording
                result.thought += rest
                return [*((OPEN, each) for each in found), *([(THOUGHT, Token(rest))] if rest else [])]
            self.is_closed, result.thought_tokens = True, len(result.ids) - len(found)
            return [*((CLOSE, each) for each in found), *([self._answer(Token(rest))] if rest else [])]
        if not self.is_open and not may_be_tag(self.held, *tag):  # no thought at all
            self.is_closed, found, self.held, self.blanks = True, [*self.blanks, *self.held], [], []
            return [self._answer(each) for each in found]
        known = []
        while self.held and not may_be_tag(self.held, *tag):
            known.append(self._thought(self.held.pop(0)))
        return known

    def _thought(self, token: Token) -> Part:
        self.result.thought += token.text
        if self._is_asked():
            self.since.append(token)
        return THOUGHT, token

    def _answer(self, token: Token) -> Part:
        self.result.answer += token.text
        return ANSWER, token

    async def _decided(self) -> list[Token] | None:
        """Ask the policy; return the tokens that end the trace if it stops here.

        If the policy fails for any reason, the thought continues without it.
        """
        try:
            observation = self._observed()
            return None if self.result.would_stop_at is not None else await self._decide(observation)
        except Exception as error:
            self.result.failure = f"{type(error).__name__}: {error}"
            return None

    def _asks(self, observation: Any) -> int:
        """The kind of action that the policy asks for."""
        kinds, _ = self.rows.ask(observation, [0])
        return int(kinds[0])

    async def _decide(self, observation: Any) -> list[Token] | None:
        result, position = self.result, len(self.result.ids)
        kind, forced = self._asks(observation), None
        if kind == Kind.PROBE:
            if (forced := await self._force()) is None:
                return None  # there is no room for an answer
            kind = self._asks(self.windows.probed(observation, [self._key(forced)], *log_probs_of(forced)))
        stops = kind == Kind.STOP
        if stops:
            forced = forced or await self._force()
            if forced is not None and self._key(forced) is not None:
                result.would_stop_at, result.would_answer = position, self.settings.markup.answer_prefix + forced.text
            else:  # a stop must not make an answer empty
                stops = False
                self.rows.put_off(0)
                had_all = forced is not None and self.room.asked_tokens == self.settings.markup.answer_tokens
                result.num_too_long += forced is not None and had_all and is_cut(forced.end.reason)
        if not stops or self.is_observed:
            result.probe_tokens += 0 if forced is None else self._cost(forced)
            return None
        assert forced is not None
        self._drop_ahead()
        result.stopped, self.ending = True, forced.end.reason
        markup = self.settings.markup
        tags = [Token(text, number) for text, number in markup.tags]
        return [*tags, *forced.tokens]

    def _observed(self) -> Any:
        """The observation at this position."""
        tokens, self.since = self.since, []  # added to the window in one call, as a proxy has many thoughts under way
        ids = [UNKNOWN if token.id is None else token.id for token in tokens]
        log_probs = [math.nan if token.log_prob is None else token.log_prob for token in tokens]
        entropies = None
        if "mean_entropy" in self.settings.policy.signals:
            entropies = [math.nan if (known := entropy_of(token)) is None else known for token in tokens]
        self.windows.add(ids, log_probs, entropies)
        observation = self.windows.observe(self._log_close_prob())
        self.result.last_seen = row_of(observation, 0)
        return observation

    def _log_close_prob(self) -> float | None:
        """The log-probability of closing the thought here, from the next token's distribution; None if unknown."""
        return log_close_prob_of(self.ahead[0], self.settings.markup) if self.ahead else None

    async def _force(self) -> Completion | None:
        """Close the thought here and return the model's greedy answer; None if the server has no room for one."""
        markup, result, before = self.settings.markup, self.result, self.room.num_requests
        prompt = [*self.prompt_ids, *result.ids, *markup.close_ids, *markup.answer_ids]
        kept = {name: value for name, value in self.sampling.items() if name != "seed"}
        num_top = None if self.settings.num_top is None else 0
        try:
            found = await self.room.complete(prompt, self._room(), num_top=num_top, **kept | {"temperature": 0.0})
        finally:
            result.num_requests += self.room.num_requests - before
        if found is not None:
            self._account(found.end)
        return found

    def _key(self, forced: Completion) -> str | None:
        """The value of a forced answer, as a client would read it; None if it did not end or is only its prefix."""
        markup, is_answer = self.settings.markup, is_natural(forced.end.reason) and bool(forced.text.strip())
        return markup.answer_of(markup.answer_prefix + forced.text) if is_answer else None

    def _cost(self, forced: Completion) -> int:
        markup = self.settings.markup
        added = forced.end.counted(len(forced.tokens), self.room.asked_tokens)
        return len(markup.close_ids) + len(markup.answer_ids) + added
