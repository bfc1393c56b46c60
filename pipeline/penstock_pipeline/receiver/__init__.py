"""The doors: a git endpoint and webhooks, both leading to one thing, an accepted push."""
