"""What a packed network can do: one operation, one file; `registry` finds them."""
