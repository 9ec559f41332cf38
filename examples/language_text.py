"""Makes archives/python_reference.txt: chapters of Python's language reference.

Run it with Python 3.11 only to make the file again; the language examples read what it made.
Python carries the text for ``help()``; licence: archives/LICENSE-python.txt.
"""

from pathlib import Path
from pydoc_data.topics import topics  # type: ignore[import-not-found,unused-ignore]

ARCHIVE = Path(__file__).parent / "archives" / "python_reference.txt"
TOPICS = ("assignment", "calls", "class", "compound", "execmodel", "import", "naming", "raise")


def main() -> None:
    text = "\n\n\n".join(topics[name].strip() for name in TOPICS) + "\n"
    ARCHIVE.write_text(text, encoding="utf-8", newline="\n")
    print(f"{ARCHIVE}: {ARCHIVE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
