"""A module a package: REQUIREMENTS are what pip installs for it, `layers()` builds what is checked."""
