"""Typed settings, their defaults, and the certificate profiles."""
