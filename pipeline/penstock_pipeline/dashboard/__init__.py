"""The dashboard: what is live, what moves and what needs a human, as it happens, with buttons for what a
human may do about it. It reads the store and the logs, never the engine's insides; buttons give orders.

Read on: `routes` (which page is where), `sign_in` (who may see them), `actions` (the buttons), `facts` (what
a page knows), `output` (what stages print), `live` (how an open page hears of news), `pages` (how it reads).
"""

from .routes import router
from .view import View

__all__ = ["View", "router"]
