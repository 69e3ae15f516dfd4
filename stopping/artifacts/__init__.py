"""Artifacts: a policy on disk, one small directory that a server checks before it trusts it. Nothing needs JAX."""

from stopping.artifacts.error import ArtifactError
from stopping.artifacts.loading import Artifact, load_policy
from stopping.artifacts.saving import save_policy
from stopping.artifacts.schema import (
    CalibratedOn,
    Certificate,
    DecisionPoints,
    Document,
    Evidence,
    Fallback,
    Quantity,
    json_schema,
)

__all__ = [
    "Artifact",
    "ArtifactError",
    "CalibratedOn",
    "Certificate",
    "DecisionPoints",
    "Document",
    "Evidence",
    "Fallback",
    "Quantity",
    "json_schema",
    "load_policy",
    "save_policy",
]
