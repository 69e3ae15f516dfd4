"""A policy on a running model: servers of the OpenAI protocol, a proxy before them, engines in process. Nothing needs JAX."""
