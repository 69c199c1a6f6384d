"""``python -m supermask`` is the command line."""

from __future__ import annotations

from supermask.cli import main

if __name__ == "__main__":
    main()
