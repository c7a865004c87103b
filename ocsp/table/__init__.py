"""The status table: what the responder knows, in shared memory.

One process writes it (``TableWriter``), any number read it (``TableReader``), with no message and
no lock between them: every look-up is a few loads from a mapped file.
"""

from ocsp.table.reader import TableReader
from ocsp.table.writer import TableWriter

__all__ = ["TableReader", "TableWriter"]
