"""A fast check of a dataset within a time limit: its manifest, and the existence and sizes of its shards.

It detects missing and truncated shards, but not changed bytes: those require hashes (`numerate corpus verify`).
"""

import time
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from storage.datasets.manifest import Manifest, committed, load_table
from storage.datasets.schema_version import OLDEST_READ, head_of
from storage.errors import RunFailure, UserError
from storage.places.place import Location

_BATCH = 256
_GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class QuickCheck:
    """The result of `quick_check`."""

    version: int = 0
    """Schema version of the manifest; 0 if it cannot be read."""
    manifest: Manifest | None = None
    """None if it is missing, damaged or of another version."""
    fault: str = ""
    """Why the manifest cannot be used, in one line."""
    shards: int = 0
    compared: int = 0
    """Number of shards whose sizes were compared; fewer than all if the time ran out."""
    broken: int = 0
    """Number of compared shards that are missing or have another size."""

    @property
    def outdated(self) -> bool:
        """Whether the schema version is older than the oldest readable one."""
        return 0 < self.version < OLDEST_READ


def quick_check(folder: Location, what: str, until: float) -> QuickCheck:
    """Checks the dataset in `folder` until `time.monotonic()` reaches `until`; `what` names it in messages."""
    if not committed(folder):
        return QuickCheck()
    version = 0
    try:
        stated = head_of((folder / "manifest.json").read()).get("schema_version")
        version = stated if isinstance(stated, int) else 0
        manifest, table = load_table(folder, what)
    except (UserError, RunFailure) as error:
        return QuickCheck(version, fault=str(error))
    except OSError as error:
        return QuickCheck(version, fault=f"{folder} can't be read ({error.strerror})")
    compared, broken = _compare_sizes(folder, table, until)
    return QuickCheck(version, manifest, "", table.num_rows, compared, broken)


def _compare_sizes(folder: Location, table: pa.Table, until: float) -> tuple[int, int]:
    """Returns how many shards were compared, and how many of these are missing or have another size."""
    # A golden-ratio sequence spreads the shards compared so far evenly, so that they are a fair sample.
    order = np.argsort(np.arange(table.num_rows) * _GOLDEN % 1)
    compared = broken = 0
    for first in range(0, table.num_rows, _BATCH):
        batch = table.take(pa.array(order[first : first + _BATCH]))
        for path, size in zip(batch.column("path").to_pylist(), batch.column("bytes").to_pylist(), strict=True):
            broken += (folder / path).size() != size
        compared += batch.num_rows
        if time.monotonic() > until:
            break
    return compared, broken
