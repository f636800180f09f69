"""How much memory this machine and this cgroup leave for slabs."""
