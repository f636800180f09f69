"""What `make demo` and the tests run: small models made on the spot, nothing downloaded."""
