"""Trained networks to packed files. `rsquant.pack` is the function."""
