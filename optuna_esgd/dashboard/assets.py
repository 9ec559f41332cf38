"""The files that pages need, from packages only: no network is asked for anything."""

from __future__ import annotations

import gzip
import hashlib
import importlib.resources
from collections.abc import Mapping
from functools import cache
from string import Template
from typing import NamedTuple

PLOTLY = "plotly.min.js"
_SCRIPT = "text/javascript; charset=utf-8"
# What can be asked for by name; a name is never made into a path.
KINDS: Mapping[str, str] = {
    "style.css": "text/css; charset=utf-8",
    "theme.js": _SCRIPT,
    "live.js": _SCRIPT,
    "figures.js": _SCRIPT,
    "tables.js": _SCRIPT,
    "icon.svg": "image/svg+xml",
    PLOTLY: _SCRIPT,
}


class Compressed(NamedTuple):
    """Bytes compressed by gzip, and a tag that changes with them."""

    body: bytes
    tag: str


def compress(content: bytes, *, level: int = 9) -> Compressed:
    """Compress; equal content gives equal bytes."""
    body = gzip.compress(content, compresslevel=level, mtime=0)
    return Compressed(body, hashlib.blake2b(body, digest_size=16).hexdigest())


@cache
def load_asset(name: str) -> Compressed:
    """One of the files in ``KINDS``."""
    if name == PLOTLY:
        from plotly.offline import get_plotlyjs  # noqa: PLC0415  (4 MB, when first asked for)

        return compress(get_plotlyjs().encode())
    return compress(_read(name))


def fill_page(name: str, **texts: str) -> bytes:
    """A page with texts put in; they must be HTML already."""
    return Template(_read(name).decode()).substitute(texts).encode()


def _read(name: str) -> bytes:
    return importlib.resources.files(__package__).joinpath("files", name).read_bytes()
