"""Resources for Envoy and gRPC clients, built from the options and a snapshot."""
