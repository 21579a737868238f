"""The schema version of a manifest: which versions can be read, and what is known of a manifest of any version."""

import hashlib
import json
from typing import Any

from storage.errors import UserError
from storage.places.place import Location

SCHEMA_VERSION = 3
# The oldest readable schema version: its list of shards has a fixed name, and its identity is the manifest's hash.
OLDEST_READ = 2


def hash_of(value: Any) -> str:
    """SHA-256 of the canonical JSON text of `value`."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def argument_of(corpus: Location) -> str | Location:
    """The corpus as a command's argument: its name in a workspace, otherwise its location."""
    return corpus.name if corpus.parent.name == "corpora" else corpus


def check_version(text: bytes, location: Location, what: str) -> None:
    """Raises `UserError` with a remedy if `text` is a manifest of an unreadable schema version."""
    head = head_of(text)
    version = head.get("schema_version")
    if not isinstance(version, int) or version < 1 or OLDEST_READ <= version <= SCHEMA_VERSION:
        return
    if version > SCHEMA_VERSION:
        raise UserError(
            f"{what} was written by a newer Numerate (schema version {version}, this one reads {SCHEMA_VERSION}): "
            "update Numerate"
        )
    remedy = f"run 'numerate corpus migrate {argument_of(location)}'"
    if location.remote:
        remedy = "generate it under another name ('numerate corpus migrate' needs a local disk)"
    if head.get("kind") == "tokens":
        remedy = f"delete {location} and run 'numerate encode' again"
    raise UserError(f"{what} has schema version {version}, this Numerate reads {SCHEMA_VERSION}: {remedy}")


def head_of(text: bytes) -> dict[str, Any]:
    """The unchecked values in the text of a `manifest.json` of any version; empty if they cannot be parsed."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def known_spec(head: dict[str, Any]) -> dict[str, Any] | None:
    """The spec in a possibly damaged manifest, if its hash matches; otherwise None."""
    spec = head.get("spec")
    return spec if isinstance(spec, dict) and hash_of(spec) == head.get("spec_hash") else None
