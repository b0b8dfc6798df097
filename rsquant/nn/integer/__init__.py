"""Integer networks: what a device rounds is rounded in training. See docs/integer.md."""
