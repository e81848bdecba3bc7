"""Sweeps: their folders, their worker processes, and what became of their cells."""
