"""Private keys behind one port: PKCS#11 tokens and encrypted files."""
