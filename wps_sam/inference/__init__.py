"""After the prompter: ``select`` says which proposals become parts, ``merge`` makes of their masks one part map."""
