"""The template and the state machines, drawn."""
