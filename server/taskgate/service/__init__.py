"""Answer calls, independently of the transport that carries them."""
