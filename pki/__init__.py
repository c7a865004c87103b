"""The certificate authority engine."""
