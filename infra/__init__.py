"""What the rest stands on: stores, clocks, HTTP and telemetry; knows nothing of identity or PKI."""
