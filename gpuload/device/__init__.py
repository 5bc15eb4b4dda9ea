"""Memory and conversion on a device: planes to pixels, batch buffers."""
