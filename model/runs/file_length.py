"""Whether a checkpoint's file is as long as its own header says; without torch, whose import takes seconds."""

import json

from storage.places.place import Location

_LONGEST_HEADER = 100_000_000
"""That of the safetensors library."""


def is_cut_off(place: Location) -> bool:
    """Whether a file of safetensors is shorter or longer than its header says, or has none that can be read."""
    size = place.size()
    try:
        with place.opened() as file:
            length = int.from_bytes(file.read(8), "little")
            if length > min(size - 8, _LONGEST_HEADER):
                return True
            header = json.loads(file.read(length))
        ends = [value["data_offsets"][1] for name, value in header.items() if name != "__metadata__"]
        return bool(size != 8 + length + max(ends, default=0))
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return True
