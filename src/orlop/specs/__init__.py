"""L1: one file per external document: parse(bytes) -> frozen object. No I/O."""
