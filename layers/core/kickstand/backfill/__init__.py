"""The past: photos that have no decision yet, or one by an older model, are decided in a lane of their own."""
