"""Data: from files and hubs to records, trees and batches.

    read(ctx, field, as_)       a stage's records, of the kind it needs, mixed
    load(spec, seed, base)      the records of one entry of `data:`
    write, read_file            records on disk

Nothing here imports torch; `align.data.tokens` and `align.data.tree` do.
"""

from align.data.files import read_file, write
from align.data.load import load
from align.data.mix import read

__all__ = ["load", "read", "read_file", "write"]
