"""The xDS protocol: resources, subscriptions, and the order of pushes; without I/O."""
