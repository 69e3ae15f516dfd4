"""A policy on a running model: streams of OpenAI-compatible servers, engines in process, a proxy before them."""
