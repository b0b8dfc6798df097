"""Studies: lists of experiments, their runs, and the tables and pictures that they fill."""
