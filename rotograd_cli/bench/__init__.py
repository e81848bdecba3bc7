"""Benchmarks: what a training step costs, beside plain autograd and the authors' package."""
