"""Mutants of bundles: made by number, run through commands, and judged."""
