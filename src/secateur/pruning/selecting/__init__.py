"""Scores and a budget give masks, exactly."""
