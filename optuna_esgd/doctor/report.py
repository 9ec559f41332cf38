"""A checkup for people, and for programs."""

from __future__ import annotations

import json
import math
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from optuna_esgd.doctor.examine import Checkup
from optuna_esgd.doctor.findings import Finding

_MARKS = {"ok": "[green]ok", "advice": "[yellow]advice", "broken": "[bold red]broken"}
HOLDS = "Nothing found that breaks the guarantee: the best fitness never gets worse."
BREAKS = "The guarantee would not hold:"


def render(checkup: Checkup) -> RenderableType:
    """Lay findings out as a table, and the verdict below."""
    table = Table.grid(padding=(0, 2, 1, 0))
    table.add_column(no_wrap=True)
    table.add_column(style="bold")
    table.add_column()
    for one in checkup.findings:
        table.add_row(_MARKS[one.severity], escape(one.examination), _text(one))
    return Group(table, verdict(checkup))


def verdict(checkup: Checkup) -> str:
    """One sentence."""
    broken = [one.examination for one in checkup.findings if one.severity == "broken"]
    return f"{BREAKS} {', '.join(broken)}." if broken else HOLDS


def to_json(checkup: Checkup) -> str:
    """Everything, as one JSON object; what is not a finite number is null."""
    findings = [
        {
            "examination": one.examination,
            "severity": one.severity,
            "found": one.found,
            "advice": one.advice,
            "numbers": {name: _finite(value) for name, value in one.numbers.items()},
        }
        for one in checkup.findings
    ]
    document = {"is_guaranteed": checkup.is_guaranteed, "findings": findings}
    return json.dumps(document, indent=1, allow_nan=False)


def _text(finding: Finding) -> str:
    advice = f"\n[dim]→[/dim] {escape(finding.advice)}" if finding.advice else ""
    return escape(finding.found) + advice


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
