"""From proposals to parts, and from masks to one part map."""
