"""Tables on disk, which a fit reads a few rows at a time."""

from pyro_expfam.tables.stores import h5ad, memmap, parquet, zarr
from pyro_expfam.tables.table_on_disk import TableOnDisk

__all__ = ["TableOnDisk", "h5ad", "memmap", "parquet", "zarr"]
