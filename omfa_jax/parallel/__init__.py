"""Sharding and multi-process jobs: hardware, mesh, rules, host-to-device feed, start and exit."""
