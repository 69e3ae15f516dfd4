"""The rule and the problem that the guide to custom ones defines (notebook 08), without what it does with them."""

import re
import sys
from pathlib import Path
from types import ModuleType

GUIDE = Path(__file__).parents[3] / "notebooks" / "08_your_own_rule_and_problem.py"
DEFINES = ("import ", "from ", "class ", "@policy")


def source() -> str:
    """Return the imports and the classes of the guide, as a user would have them in a file."""
    cells = re.split(r"^# %%.*$", GUIDE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = [line for cell in cells for line in cell.splitlines() if not line.startswith("# ")]
    statements = re.split(r"\n(?=\S)", "\n".join(lines))
    return "\n".join(statement for statement in statements if statement.startswith(DEFINES)) + "\n"


def module() -> ModuleType:
    """Return the same as the module `guide`."""
    if "guide" not in sys.modules:
        sys.modules["guide"] = guide = ModuleType("guide")
        exec(source(), guide.__dict__)
    return sys.modules["guide"]
