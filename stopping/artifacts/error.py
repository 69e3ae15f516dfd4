"""The one error of this package."""


class ArtifactError(ValueError):
    """An artifact that cannot be saved or loaded.

    Attributes:
        file: the file's name within the directory, or the directory's where no single file is at fault.
        field: where in the file: a dotted path, a line, or empty.
        problem: what was expected and what was found.
    """

    def __init__(self, file: str, field: str, problem: str) -> None:
        super().__init__(": ".join(part for part in (file, field, problem) if part))
        self.file, self.field, self.problem = file, field, problem
