"""The CRI front end: gRPC services that translate requests to calls of services/ and results back; they decide nothing."""
