"""Repair after the cut that is not training from scratch."""
