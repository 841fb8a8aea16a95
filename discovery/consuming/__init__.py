"""From the registry to consumers: snapshots, the names in them, and the thread that each consumer runs on."""
