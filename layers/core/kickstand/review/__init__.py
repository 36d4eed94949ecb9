"""When a person decides: who is asked, about what, and what is done with the answer."""
