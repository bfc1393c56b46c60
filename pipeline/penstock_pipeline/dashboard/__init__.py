"""The dashboard: what is live, what moves and what needs a human, as it happens. It reads the store and the
logs, never the engine's insides, and changes nothing.

Read on: `routes` (which page is where), `facts` (what a page knows), `output` (what stages print), `live`
(how an open page hears of news), `pages` (how it all reads).
"""

from .routes import router
from .view import View

__all__ = ["View", "router"]
