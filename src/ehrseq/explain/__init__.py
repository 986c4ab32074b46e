"""Explanations of predictions, and how far they can be believed."""
