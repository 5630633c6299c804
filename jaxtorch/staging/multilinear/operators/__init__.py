"""What operators mean in normal form: one file for each family of calls."""
