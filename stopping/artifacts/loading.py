"""Loading a policy from its directory."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from stopping.artifacts import golden
from stopping.artifacts.error import ArtifactError
from stopping.artifacts.files import GOLDEN, POLICY, WEIGHTS, digest, read, text
from stopping.artifacts.parameters import decode
from stopping.artifacts.schema import Document, parse
from stopping.policies import Bound, bind, registered
from stopping.policies.namespace import Backend


@dataclass(frozen=True)
class Artifact:
    """A policy as it was loaded.

    Attributes:
        policy: the policy, checked on its golden lines.
        document: the content of `policy.json`.
        digest: SHA-256 of `policy.json`, which names that of the tensors and golden lines: the identity of the policy.
    """

    policy: Any
    document: Document
    digest: str

    def bind(self, backend: Backend) -> Bound:
        """Return the policy on a backend: `python`, `numpy`, `jax` or `torch`."""
        return bind(self.policy, backend)


def load_policy(directory: str | Path) -> Artifact:
    """Return the policy of a directory written by `save_policy`, after running its golden lines.

    Nothing is imported or executed from the directory: the class of a custom policy must have been defined before.

    Raises:
        ArtifactError: naming the file and the field, whatever is wrong with the directory.
    """
    contents = read(Path(directory))
    document = parse(Document, text(contents, POLICY), POLICY)
    _check_files(document, contents)
    policy = _policy(document, contents.get(WEIGHTS))
    golden.check(policy, golden.read(text(contents, GOLDEN)), document.plain_python)
    return Artifact(policy, document, digest(contents[POLICY]))


def _check_files(document: Document, contents: dict[str, bytes]) -> None:
    found = {name: digest(contents[name]) for name in (GOLDEN, WEIGHTS) if name in contents}
    for name in sorted(found.keys() | document.files.keys()):
        if found.get(name) != document.files.get(name):  # type: ignore[call-overload]
            raise ArtifactError(POLICY, f"files.{name}", "the file's SHA-256 is another, or one of both is missing")


def _policy(document: Document, weights: bytes | None) -> Any:
    try:
        cls = registered(document.kind)
    except KeyError as error:
        problem = f"{error.args[0]}. It was defined in {document.module!r}: import that module before loading"
        raise ArtifactError(POLICY, "kind", problem) from None
    values = decode(document.parameters, weights)
    names = [field.name for field in fields(cls)]
    if set(values) != set(names):
        expected, got = ", ".join(names) or "none", ", ".join(values) or "none"
        raise ArtifactError(POLICY, "parameters", f"{document.kind} has {expected}; got {got}")
    contract = {"signals": list(cls.signals), "actions": [kind.name for kind in cls.kinds]}  # type: ignore[attr-defined]
    for name, known in contract.items():
        if getattr(document, name) != known:
            raise ArtifactError(POLICY, name, f"{document.kind} has {known}, got {getattr(document, name)}")
    try:
        return cls(**values)
    except Exception as error:  # a policy checks its parameters, and may be custom
        raise ArtifactError(POLICY, "parameters", f"{document.kind} refuses them: {error}") from error


def policy_and_interval(policy: Any, every_tokens: int | None = None) -> tuple[Any, int | None]:
    """Return a policy, and how often it is asked, from itself, its artifact or its directory.

    Args:
        policy: a policy, what `load_policy` returned, or a directory's path.
        every_tokens: between decision points; None for what the artifact says.
    """
    artifact = load_policy(policy) if isinstance(policy, str | Path) else policy
    if not isinstance(artifact, Artifact):
        return artifact, every_tokens
    return artifact.policy, every_tokens or artifact.document.decision_points.interval_tokens
