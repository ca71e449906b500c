"""A study: the whole plan of trials, its records and its report."""
