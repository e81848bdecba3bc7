"""Rotations of the features: their parameters, what moves them, and how they are computed."""
