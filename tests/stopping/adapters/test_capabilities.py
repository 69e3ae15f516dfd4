"""What llama.cpp's own server can do, found by asking it."""

import asyncio

from stopping.adapters.server.capabilities import examine
from stopping.adapters.server.client import Upstream


def test_what_llama_cpp_can_do_is_found(llama_server):
    async def ask():
        async with Upstream(llama_server) as upstream:
            return await examine(upstream, num_top=32)

    found = asyncio.run(ask())
    assert found.log_probs and found.num_top == 32 and found.whole_law
    assert found.continues and found.prefix_cache and found.num_choices and found.control and found.usage
    assert found.tokenizer == "llama.cpp"
    assert found.idle_seconds is not None and found.tokens_per_second and found.log_probs_share
