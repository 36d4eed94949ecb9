"""The deployment on a laptop: the shipped template, state machines and handlers, on moto, in one process."""
