"""How results are set as text: columns, and lines that stay one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(rows: Iterable[Sequence[object]]) -> str:
    """Return rows as columns of equal width, without trailing blanks."""
    texts = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)] if texts else []
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in texts
    )


def one_line(text: str) -> str:
    """Return a text on one line, with single blanks."""
    return " ".join(text.split())
