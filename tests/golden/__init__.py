"""Launch plans as text: what reviewers read when the compiler changes."""
