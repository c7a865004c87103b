"""The ``digitalid`` command: composes everything, and alone reads the settings."""
