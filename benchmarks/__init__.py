"""Measurements, each a module to run with `python -m`; `results/` keeps the committed ones."""
