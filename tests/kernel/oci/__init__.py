"""Plans as the compiler makes them, run by the native executor on the real kernel."""
