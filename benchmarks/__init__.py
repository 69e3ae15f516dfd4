"""Side-by-side timings against peers: `python -m benchmarks` for all, or with names of subjects."""
