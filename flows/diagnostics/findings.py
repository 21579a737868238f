"""What a check of `numerate doctor` finds."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from storage.workspace import Workspace

Level = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; `remedy` says what to do unless all is well."""

    name: str
    level: Level
    text: str
    remedy: str = ""


Check = Callable[[Workspace], Finding]
