"""Pooling: windows, whole planes, and neighbouring channels."""
