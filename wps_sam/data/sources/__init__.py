"""Where records come from: one module a layout, descriptions of one's own data, and the published data sets."""
