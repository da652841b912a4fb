"""Methods that choose feature interactions, under one interface: search, freeze, retrain."""
