"""A cheap look at a dataset: its manifest, and whether its shards lie there with their sizes, within a given time.

It finds what is missing or cut, not a byte that was changed: that takes hashes, and `numerate corpus verify`.
"""

import time
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from storage.datasets.manifest import OLDEST_READ, Manifest, committed, head_of, listed_below, load_encoded
from storage.errors import RunFailure, UserError
from storage.places.place import Location

_BATCH = 256
_GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class Glance:
    """What a look showed."""

    version: int = 0
    """Schema version of the manifest; 0 where none can be read."""
    manifest: Manifest | None = None
    """None where there is none, or it is damaged or of another version."""
    trouble: str = ""
    """Why the manifest can't be used, in one line."""
    shards: int = 0
    looked_at: int = 0
    """Shards whose sizes were compared; fewer where the time was up."""
    broken: int = 0
    """Those that are missing or have another size."""

    @property
    def outdated(self) -> bool:
        """Whether it is of an older schema version than can be read."""
        return 0 < self.version < OLDEST_READ


def glance(folder: Location, what: str, until: float) -> Glance:
    """Look at the dataset in `folder` until the clock `time.monotonic` says so; `what` names it in a line."""
    if not committed(folder):
        return Glance()
    version = 0
    try:
        found = head_of((folder / "manifest.json").read()).get("schema_version")
        version = found if isinstance(found, int) else 0
        manifest, encoded = load_encoded(folder, what)
        table = listed_below(folder, manifest, encoded)
    except (UserError, RunFailure) as error:
        return Glance(version, trouble=str(error))
    except OSError as error:
        return Glance(version, trouble=f"{folder} can't be read ({error.strerror})")
    looked_at, broken = _sizes(folder, table, until)
    return Glance(version, manifest, "", table.num_rows, looked_at, broken)


def _sizes(folder: Location, table: pa.Table, until: float) -> tuple[int, int]:
    """How many shards were looked at, and how many of them aren't there in full."""
    # Spread over the whole at any moment, so that what the time allows is a fair sample.
    order = np.argsort(np.arange(table.num_rows) * _GOLDEN % 1)
    looked_at = broken = 0
    for first in range(0, table.num_rows, _BATCH):
        batch = table.take(pa.array(order[first : first + _BATCH]))
        for path, size in zip(batch.column("path").to_pylist(), batch.column("bytes").to_pylist(), strict=True):
            broken += (folder / path).size() != size
        looked_at += batch.num_rows
        if time.monotonic() > until:
            break
    return looked_at, broken
