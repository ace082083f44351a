"""Other people's engines, taught to use what is here; nothing imports an engine before it is asked for."""
