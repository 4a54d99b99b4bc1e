"""The HTTP application: its routes, their handlers, the OpenAPI description and the documentation page."""
