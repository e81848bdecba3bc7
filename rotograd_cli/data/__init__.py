"""Data sets: one file each, all with the contract of :mod:`rotograd_cli.data.base`."""
