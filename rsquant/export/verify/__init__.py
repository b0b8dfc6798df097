"""Parity: does a written file compute what the network computes?"""
