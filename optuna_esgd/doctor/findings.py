"""What an examination finds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

# Fine; worth a thought; the guarantee that fitness never gets worse would not hold.
Severity = Literal["ok", "advice", "broken"]
Number = float | int | str | None


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What an examination found.

    Attributes:
        examination: What was examined, in a few words.
        severity: How bad it is.
        found: What was found, in plain words with numbers.
        advice: What to do about it; "" for nothing.
        numbers: The same for programs, by name.
    """

    examination: str
    severity: Severity
    found: str
    advice: str = ""
    numbers: Mapping[str, Number] = field(default_factory=dict)
