"""Models on servers: how they are asked over HTTP, and what they answer."""
