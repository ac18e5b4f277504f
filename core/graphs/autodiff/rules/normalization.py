"""Normalisation over a batch, an instance, a layer, a group; softmax."""
