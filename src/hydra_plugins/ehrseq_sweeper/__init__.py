"""Hydra's side of a sweep. Hydra imports this whenever it starts: nothing heavy here."""
