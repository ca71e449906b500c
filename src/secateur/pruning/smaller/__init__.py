"""Networks that are smaller or faster in torch itself, once they are cut."""
