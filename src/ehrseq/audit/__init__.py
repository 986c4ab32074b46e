"""Audits: checks that prove something about a result."""
