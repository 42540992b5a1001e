"""Tables that people bring along as CSV files with a header. Pure."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence

Cells = Mapping[str, str | None]
"""One row, by column; None where the row ends before."""


class CsvFileError(Exception):
    """The file is no table with these columns; the text names line, value and remedy."""


def rows(text: str, columns: Sequence[str], what: str) -> Iterator[tuple[int, Cells]]:
    """Each row, which stands for one ``what``, with the number of its last line. Raises
    CsvFileError, also where no row is left."""
    # Not text.splitlines(), which also breaks lines at separators that a cell may hold.
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        header = reader.fieldnames or ()
        if not header:
            raise CsvFileError(f"the file is empty: give a header line with {', '.join(columns)}")
        missing = [name for name in columns if name not in header]
        if missing:
            raise CsvFileError(
                f"line 1: column {', '.join(missing)} is missing; there are {', '.join(header)}"
            )
        found = False
        for cells in reader:
            found = True
            yield reader.line_num, cells
        if not found:
            raise CsvFileError(f"the file has a header and no row: add one line for each {what}")
    except csv.Error as error:
        raise CsvFileError(
            f"line {reader.line_num + 1}: the row that begins here cannot be read ({error}): close "
            "its quotation marks, or leave out a column that is so long"
        ) from None
