"""`stopping reasoner`: train the shipped model again, record its log again, or export it."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from stopping.cli.exits import guarded
from stopping.cli.options import Seed, progress_bar

reasoner = typer.Typer(
    name="reasoner", help="The shipped reasoner: train it again, record its log again, export it.", no_args_is_help=True
)
ModelPath = Annotated[
    str,
    typer.Option("--model", metavar="MODEL", help="target, draft, weak_draft, or a directory in Hugging Face layout."),
]


@reasoner.command()
@guarded
def train(
    name: Annotated[str, typer.Argument(metavar="NAME", help="target, draft or weak_draft.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the weights go, in Hugging Face layout.")],
    seed: Seed = 0,
    steps: Annotated[int | None, typer.Option(metavar="N", min=1, help="Fewer or more than the recipe's.")] = None,
) -> None:
    """Train a model from scratch (the target takes an hour and a half of one CPU core) and write it to a directory."""
    import dataclasses

    from stopping.reasoner import RECIPES, save_model
    from stopping.reasoner.training import Progress as Report
    from stopping.reasoner.training import card
    from stopping.reasoner.training import train as run

    if name not in RECIPES:
        raise ValueError(f"NAME: expected one of {', '.join(RECIPES)}, got {name}")
    recipe = dataclasses.replace(RECIPES[name], seed=seed, num_steps=steps or RECIPES[name].num_steps)
    console = Console(highlight=False)
    last: list[Report] = []
    with progress_bar(console) as progress:
        task = progress.add_task("training", total=recipe.num_steps)

        def report(now: Report) -> None:
            last[:] = [now]
            progress.update(task, completed=now.num_steps, description=f"training, loss {now.loss:.3f}")

        model = run(recipe, report)
    save_model(model, out, card(name, recipe, last[0]))
    console.print(f"{out}: {model.num_parameters:,} parameters, {last[0].num_tokens:,} tokens, loss {last[0].loss:.4f}")


@reasoner.command()
@guarded
def record(
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Where the log goes, traces.parquet, and its card, README.md.")
    ],
    model: ModelPath = "target",
    problems: Annotated[int, typer.Option(metavar="N", min=5, help="Problems.")] = 4000,
    samples: Annotated[int, typer.Option(metavar="N", min=1, help="Traces a problem.")] = 16,
    probed: Annotated[int, typer.Option(metavar="N", min=0, help="Problems with answers forced on the way.")] = 1000,
    with_signals: Annotated[int, typer.Option(metavar="N", min=0, help="Problems with per-token signals.")] = 200,
    temperature: Annotated[float, typer.Option(help="Of the sampling.")] = 1.0,
    seed: Seed = 0,
) -> None:
    """Sample traces of held-out problems, check them, force answers on the way, and write the log."""
    from stopping.reasoner import Plan, load_model
    from stopping.reasoner.recording import LOG, card
    from stopping.reasoner.recording import record as run

    out.mkdir(parents=True, exist_ok=True)
    plan = Plan(problems, samples, probed, with_signals, temperature=temperature, seed=seed)
    console = Console(highlight=False)
    with progress_bar(console) as progress:
        task = progress.add_task("recording", total=problems)
        log = run(load_model(model), plan, out / LOG.name, lambda done: progress.advance(task, done))
    (out / "README.md").write_text(card(log, plan), encoding="utf-8")
    console.print(f"{out}: {log}", markup=False)


@reasoner.command()
@guarded
def gguf(
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the file goes: .gguf.")],
    model: ModelPath = "target",
) -> None:
    """Write a model as one GGUF file, for llama.cpp and its servers."""
    from stopping.reasoner import save_gguf

    save_gguf(model, out)
    Console(highlight=False).print(f"{out}: {out.stat().st_size:,} bytes")
