"""Checks whether a checkpoint file has the length in its header; does not import torch, which takes seconds."""

import json

from storage.places.place import Location

_LONGEST_HEADER = 100_000_000
"""Header limit of the safetensors library, in bytes."""


def is_cut_off(place: Location) -> bool:
    """Whether a safetensors file does not have the length that its header gives, or its header is unreadable."""
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
