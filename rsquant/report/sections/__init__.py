"""What a report of runs shows: one section per file, its figures apart from its picture."""
