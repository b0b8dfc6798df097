"""Packed networks: the file, the plan in it and how BatchNorms fold, with numpy alone."""
