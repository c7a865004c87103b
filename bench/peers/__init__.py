"""The other side of benchmarks, itself no benchmark: other CAs, and what asks over HTTP."""
