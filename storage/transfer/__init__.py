"""All that is stored, as records in a file: out of one storage and into another, of whatever kind. See docs/backup.md.

Kept true: a file counts as a whole or not at all, and no gap gets into one.
"""

from storage.transfer.check import Sequences as Sequences
from storage.transfer.file import About as About
from storage.transfer.file import DamagedExport as DamagedExport
from storage.transfer.file import ExportReader as ExportReader
from storage.transfer.file import ExportWriter as ExportWriter
from storage.transfer.file import sync_file as sync_file
from storage.transfer.file import sync_folder as sync_folder
from storage.transfer.kinds import KINDS as KINDS
from storage.transfer.kinds import Record as Record
from storage.transfer.ports import Backup as Backup
from storage.transfer.ports import Report as Report
from storage.transfer.ports import Source as Source
from storage.transfer.ports import Target as Target
