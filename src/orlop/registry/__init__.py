"""L2: names to descriptors to bytes, over the distribution protocol. The only place with an HTTP client."""
