"""Learned importance: one gate per weight, trained through the cut."""
