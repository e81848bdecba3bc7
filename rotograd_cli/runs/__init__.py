"""Runs: configuration, folder, summary, resuming."""
