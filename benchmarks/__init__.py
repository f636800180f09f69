"""What things cost, measured: never asserted, and never across machines or runs."""
