"""The human's command line: one file a word. It translates words to calls on the daemon's socket and answers to text."""
