"""Gates and masks inside training loops that are not ours."""
