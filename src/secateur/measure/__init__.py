"""The only place where a figure is taken."""
