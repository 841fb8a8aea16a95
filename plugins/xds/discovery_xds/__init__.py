"""Consumer `xds`: an xDS server, which Envoy and gRPC programs follow."""
