"""Variables of the environment that stand for arguments, which lists of processes show."""

from __future__ import annotations

STORAGE_VARIABLE = "ESGD_STORAGE"
STORE_VARIABLE = "ESGD_STORE"
