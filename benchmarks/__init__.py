"""Measurements. Each script prints Markdown and writes JSON with commit, versions and device."""
