"""Stand-ins, servers, files and checks that tests of several rooms share."""
