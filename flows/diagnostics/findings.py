"""The result of a check by `numerate doctor`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from storage.workspace import Workspace

Level = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """Result of one check; `remedy` says what to do unless the level is ok."""

    name: str
    level: Level
    text: str
    remedy: str = ""


Check = Callable[[Workspace], Finding]
