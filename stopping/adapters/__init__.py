"""A policy on a running model: servers that speak the OpenAI protocol, a proxy before them, engines in process. Nothing needs JAX."""
