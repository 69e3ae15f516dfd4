"""A policy on a running model: servers of the OpenAI protocol, a proxy for them, and engines in process; nothing needs JAX."""
