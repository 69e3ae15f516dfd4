"""A trace under way on a server: what comes of it, and what a policy is asked about it.

It is generated piece by piece, each continuing from the tokens so far. Nothing is changed by that: the pieces together are a
sample of what one long request would have given.
"""

import asyncio
import math
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from stopping.adapters.server.capabilities import tokens_of_text
from stopping.adapters.server.client import Completion, End, UpstreamError
from stopping.adapters.server.markup import behind, may_be
from stopping.adapters.server.protocol import Token
from stopping.adapters.server.retries import is_passing
from stopping.adapters.server.room import Room, refuses
from stopping.adapters.server.signals import entropy_of, log_close_prob_of, log_probs_of
from stopping.adapters.server.thought_result import ThoughtResult
from stopping.policies import Kind
from stopping.policies.rows import PolicyRows
from stopping.policies.windows import ThoughtWindows, row_of
from stopping.traces.endings import is_cut, is_known, is_natural

if TYPE_CHECKING:
    from stopping.adapters.server.thinking import Thinker

# Waited before a piece that failed is asked for again, from the tokens there are.
RESUME_SECONDS = (0.25, 1.0, 2.0, 4.0)
MOST_ASKED = 32_768  # tokens asked for at once: a trace without a cap takes several pieces
UNKNOWN = -1  # in the place of a token's id
OPEN, THOUGHT, CLOSE, ANSWER = "open", "thought", "close", "answer"  # the parts of a trace
Part = tuple[str, Token]


class Thought:
    """One trace under way.

    A policy that reads the probability of closing the thought next needs the distribution of the next token. Pieces then extend
    one token past the decision point, and that token waits (`ahead`) until the policy has been asked. Tokens that may begin a
    tag also wait (`held`) until it is known whether they do. A thought is opened at the end of the prompt, or by the first
    tokens of the trace; blanks before these wait, too.

    Args:
        thinker: whose it is.
        prompt_ids: up to where the thought begins.
        settings: of the sampling.
        result: is filled in on the way.
    """

    def __init__(
        self, thinker: "Thinker", prompt_ids: list[int], settings: dict[str, Any], result: ThoughtResult
    ) -> None:
        self.settings, self.prompt_ids, self.sampling, self.result = thinker, prompt_ids, settings, result
        self.is_open, self.is_closed = thinker.markup.opens(prompt_ids), False
        self.is_observed, self.ending, self.passed_tokens = False, "", 0
        self.cut_word, self.room = "length", Room(thinker.upstream)
        self.asked_tokens = 0  # of the last piece
        self.blanks: list[Token] = []
        self.ahead: list[Token] = []
        self.held: list[Token] = []
        self.since: list[Token] = []
        if thinker.policy is not None:
            self.rows = PolicyRows(thinker.policy, 1)
            self.windows = ThoughtWindows(thinker.policy.signals, candidate_ids=thinker.markup.candidate_ids)
            result.decisions = self.rows.decisions[0]

    async def parts(self) -> AsyncGenerator[Part, None]:
        """Yield the trace's tokens as they come, each with the part it belongs to.

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
        """Whether the policy is to be asked here: not amid what may be the closing tag, nor where no answer has room."""
        is_over = (bool(self.ending) and not self.ahead) or bool(self.held)
        return self._is_asked() and not is_over and len(self.result.ids) == self._due() and self._room() > 0

    def _lacks_ahead(self) -> bool:
        """Whether the token that the policy is to see the distribution of is still to come: the server gave no more at once."""
        is_there = bool(self.ahead or self.ending) or len(self.result.ids) >= self.settings.cap_tokens
        return self.settings.peeks and not is_there and self._is_asked() and len(self.result.ids) == self._due()

    def _room(self) -> int:
        """Tokens that a forced answer may take, within the cap of the trace."""
        markup = self.settings.markup
        return min(markup.answer_tokens, self.settings.cap_tokens - len(self.result.ids) - len(markup.tags))

    def _is_asked(self) -> bool:
        """Whether there are decisions left to take, or, of a trace that is only looked at, to see."""
        return self.is_open and self._may_be_asked()

    def _may_be_asked(self) -> bool:
        """The same, of a trace that may yet open a thought, too."""
        result = self.result
        is_left = self.is_observed or result.would_stop_at is None
        return self.settings.policy is not None and not self.is_closed and not result.failure and is_left

    def _due(self) -> int:
        """The decision point that this piece goes up to; where the thought stands, if that is one and was reached now."""
        return (
            -(-max(len(self.result.ids), self.passed_tokens + 1) // self.settings.every_tokens)
            * self.settings.every_tokens
        )

    async def _piece(self) -> AsyncGenerator[Token, None]:
        """Go on, to the next decision point at most; what is beyond it waits.

        Where one long request would have gone on, this does: a server too busy for the next piece, or that breaks off amid one,
        is asked again from the tokens there are; and one that refuses is asked for fewer tokens, down to one.
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
        if isinstance(seed := asked.get("seed"), int) and seed >= 0:  # below 0: any, to llama.cpp
            asked["seed"] = (seed + len(result.ids)) % 2**31
        result.num_requests += 1
        came = 0
        prompt = [*self.prompt_ids, *result.ids]
        async with aclosing(
            self.settings.upstream.stream(prompt, most, num_top=self.settings.num_top, **asked)
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
        """See whether a piece that was cut is all that was asked for, and the trace goes on.

        The server's count tells of tokens that it kept back; where it says nothing, or what cannot be, those that came count, and
        whether there is room for more is seen by asking.
        """
        num_tokens, self.cut_word = end.counted(came, most), end.reason
        is_unsure = num_tokens != end.num_tokens and came > 0
        if num_tokens >= most or is_unsure:
            self.ending = ""
            if num_tokens > came:
                await self._find_lost_tokens()

    def _waits(self) -> bool:
        """Whether the next token lies beyond the decision point."""
        return self._is_asked() and len(self.result.ids) == self._due()

    async def _with_ids(self, token: Token) -> list[Token]:
        """The tokens of a piece of text whose ids the server did not send; the text stands at the last."""
        ids = (
            await tokens_of_text(self.settings.upstream, token.text, self.settings.tokenizer, start=False)
            if token.text
            else []
        )
        return [token._replace(text=token.text if at == len(ids) - 1 else "", id=each) for at, each in enumerate(ids)]

    async def _find_lost_tokens(self) -> None:
        """Take the tokens of the text so far, where the server kept some back (llama.cpp: parts of a character)."""
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
        """Add a token to the trace; return those whose part is known now."""
        result, markup = self.result, self.settings.markup
        result.ids.append(UNKNOWN if token.id is None else token.id)
        result.text += token.text
        if self.is_closed:
            return [self._answer(token)]
        tag = (markup.close_ids, markup.close) if self.is_open else (markup.open_ids, markup.open)
        begins = bool(self.held) or token.id == tag[0][0]
        if not begins and len(tag[0]) > 1:
            begins = may_be([token], *tag) or behind([token], *tag) is not None
        if self.is_open and not begins:  # nearly all of them
            return [self._thought(token)]
        if not self.is_open and not begins and markup.is_blank(token):
            self.blanks.append(token)
            return []
        self.held.append(token)
        if (rest := behind(self.held, *tag)) is not None:
            found, self.held = self.held, []
            if rest:
                found[-1] = found[-1]._replace(text=found[-1].text.removesuffix(rest))
            if not self.is_open:
                self.is_open, found, self.blanks = True, [*self.blanks, *found], []
                if self._is_asked():
                    self.since += found  # a recording counts them, too
                result.thought += rest
                return [*((OPEN, each) for each in found), *([(THOUGHT, Token(rest))] if rest else [])]
            self.is_closed, result.thought_tokens = True, len(result.ids) - len(found)
            return [*((CLOSE, each) for each in found), *([self._answer(Token(rest))] if rest else [])]
        if not self.is_open and not may_be(self.held, *tag):  # no thought at all
            self.is_closed, found, self.held, self.blanks = True, [*self.blanks, *self.held], [], []
            return [self._answer(each) for each in found]
        known = []
        while self.held and not may_be(self.held, *tag):
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
        """Ask the policy; return the tokens that end the trace if it is stopped here.

        If it fails, whatever the reason, the thought goes on without it.
        """
        try:
            observation = self._seen()
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
                return None  # there is no room to see an answer
            kind = self._asks(self.windows.probed(observation, [self._key(forced)], *log_probs_of(forced)))
        stops = kind == Kind.STOP
        if stops:
            forced = forced or await self._force()
            if forced is not None and self._key(forced) is not None:
                result.would_stop_at, result.would_answer = position, self.settings.markup.answer_prefix + forced.text
            else:  # an answer is never empty because we stopped
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

    def _seen(self) -> Any:
        """What there is to see here; tokens are added to their window at once, as a proxy has many thoughts under way."""
        tokens, self.since = self.since, []
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
        """Of closing the thought here, by the distribution from which the next token was drawn; None where that does not tell."""
        return log_close_prob_of(self.ahead[0], self.settings.markup) if self.ahead else None

    async def _force(self) -> Completion | None:
        """Close the thought here and let the model answer, greedily; None where the server has no room for that."""
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
        """What a forced answer counts as, as the client would read it; None if it did not end, or is nothing but its prefix."""
        markup, is_answer = self.settings.markup, is_natural(forced.end.reason) and bool(forced.text.strip())
        return markup.answer_of(markup.answer_prefix + forced.text) if is_answer else None

    def _cost(self, forced: Completion) -> int:
        markup = self.settings.markup
        added = forced.end.counted(len(forced.tokens), self.room.asked_tokens)
        return len(markup.close_ids) + len(markup.answer_ids) + added
