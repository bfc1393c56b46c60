"""The demo shop's web service: what is asked of it, and what it answers. Nothing but the standard library."""

VERSION = "1"

GOODS = {"spade": 39, "kettle": 45, "lantern": 28, "bucket": 16, "rope": 22, "whistle": 9}


def answer(path: str) -> tuple[int, object]:
    """Status and body for a path."""
    match path:
        case "/healthz":
            return 200, {"healthy": True}
        case "/api/version":
            return 200, {"version": VERSION}
        case "/api/goods":
            return 200, GOODS
        case _:
            return 404, {"error": f"nothing at {path}"}
