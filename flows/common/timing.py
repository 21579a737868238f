"""Duration of each stage, stored in `made.json` next to its output. Manifests contain no times."""

import json

from storage.places.place import Location


def note_seconds(folder: Location, seconds: float, *, add: bool = False) -> None:
    """Write the seconds of a stage to `made.json`; `add` adds them to those of earlier, interrupted calls."""
    before = seconds_of(folder) or 0.0 if add else 0.0
    (folder / "made.json").write(json.dumps({"seconds": round(before + seconds, 2)}).encode() + b"\n")


def seconds_of(folder: Location) -> float | None:
    """The stored seconds, or None."""
    try:
        return float(json.loads((folder / "made.json").read())["seconds"])
    except (RuntimeError, ValueError, LookupError, TypeError):
        return None
