"""Where the items of a study run."""
