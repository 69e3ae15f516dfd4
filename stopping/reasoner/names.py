"""The shipped models by name, and their directories."""

from pathlib import Path
from typing import Literal, get_args

Name = Literal["target", "draft", "weak_draft"]
NAMES: tuple[Name, ...] = get_args(Name)
SHIPPED = Path(__file__).parent / "shipped"


def folder_of(which: Name | str | Path) -> Path:
    """Return the directory of a shipped model by its name, or the one given."""
    return SHIPPED / which if which in NAMES else Path(which)
