"""What an instance consists of while it runs; ``cli.compose`` joins it."""
