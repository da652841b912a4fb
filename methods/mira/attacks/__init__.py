"""Attacks that remove watermarks, one file an attack; `attack.RemovalAttack` is their interface."""
