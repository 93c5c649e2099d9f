"""Figures of scripts/plots.py, a module a family."""
