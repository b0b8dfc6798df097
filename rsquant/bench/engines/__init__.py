"""Engines: each turns a network at one size into something to call. A file per peer.

An engine is a function of a case, registered under its name by `base.cpu_engine` or
`base.cuda_engine`; a new one is one decorated function, in a file that `choice` imports.
"""
