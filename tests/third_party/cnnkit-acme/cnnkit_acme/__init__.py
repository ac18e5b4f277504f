"""Plugins of every kind, as a stranger would write them."""
