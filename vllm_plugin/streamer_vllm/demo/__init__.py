"""Parts of `make demo` and of tests: small models that are made on the spot, not downloaded."""
