"""The error of a whole row that a family refuses."""

from __future__ import annotations


class RowError(ValueError):
    """A row of a table is not possible as a whole.

    Where the table enters, the number of the row gives way to its label in a data frame.

    Args:
        message: the message, in which ``{row}`` stands for the row.
        row: the number of the row.
    """

    def __init__(self, message: str, row: int) -> None:
        self.message, self.row = message, row
        super().__init__(self.named(str(row)))

    def named(self, name: str) -> str:
        """The message with a name for the row."""
        return self.message.format(row=name)
