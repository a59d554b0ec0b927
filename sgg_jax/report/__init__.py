"""Results for people: contact sheets, tables, plots, and the page that holds them. No jax, no config: plain data in."""
