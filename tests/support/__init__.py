"""What tests of several rooms share: waiting and leak checks."""
