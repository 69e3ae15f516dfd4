"""A simulation in a separate interpreter: `python -m tests.sims.one_run '{"num_blocks": 3, ...}'` prints a hash of its bits.

Settings: `devices`, virtual ones; `processes`, `process` and `port` of `jax.distributed`; `every_seconds` between checkpoints;
and the arguments of `simulate`.
"""

import hashlib
import json
import os
import sys


def main(settings: dict) -> None:
    """Run the simulation and print the hash."""
    devices = f"--xla_force_host_platform_device_count={settings.pop('devices', 1)}"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {devices}"
    os.environ["JAX_PLATFORMS"] = "cpu"
    import jax

    processes, process, port = (settings.pop(name, None) for name in ("processes", "process", "port"))
    if processes:
        jax.distributed.initialize(f"127.0.0.1:{port}", processes, process)
    import sims.checkpoints

    sims.checkpoints.EVERY_SECONDS = settings.pop("every_seconds", sims.checkpoints.EVERY_SECONDS)
    print(bits(simulated(**settings)), flush=True)


def simulated(**settings: object) -> object:
    """Return the result of the simulation that every process runs."""
    import jax

    import sims
    from stopping.models import Answers, LengthCorrectness
    from stopping.policies import Margin
    from stopping.problems import Sampling

    model = LengthCorrectness(
        [2.0, 0.4], [1.0, 0.3], [8.0, 7.5], [0.3, 0.1], shift=0.3, scale_right=0.4, scale_wrong=0.6, no_answer_prob=0.1,
        cap_tokens=8000.0, answers=Answers(0.2, 0.5),
    )  # fmt: skip
    return sims.simulate(jax.random.key(1), Sampling(4, model=model, price_per_token=2e-6), Margin(2), **settings)


def bits(result: object) -> str:
    """Return a hash of everything that must be identical: values, moments and digest."""
    moments = result.moments
    parts = [values.tobytes() for values in result.values.values()]
    parts += [moments.mean.tobytes(), moments.comoment.tobytes(), str(moments.count).encode(), result.digest.encode()]
    return f"{moments.count} {hashlib.sha256(b''.join(parts)).hexdigest()[:16]}"


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
