"""A policy on a running model. Nothing needs JAX."""
