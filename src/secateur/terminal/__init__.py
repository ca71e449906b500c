"""What the command line shows: progress, tables, inspections."""
