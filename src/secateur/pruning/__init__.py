"""Cutting: torch in, torch out; knows nothing of studies or compilers."""
