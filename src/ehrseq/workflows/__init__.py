"""Workflows: each a function of checked settings and inputs that writes one output folder atomically."""
