"""Backbones, one family per file.

A backbone is a module built with ``input_shape`` (shape of one example) and its own options; it
maps ``[N, *input_shape]`` to features ``[N, *feature_shape]``, or to a tuple that begins with them.
"""
