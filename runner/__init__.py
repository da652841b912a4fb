"""Runner: composes, addresses, executes, records and compares runs. It knows no method by name."""
