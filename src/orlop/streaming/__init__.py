"""The protocols of exec, attach and port-forward as bytes in, events out: nothing here reads, writes or waits."""
