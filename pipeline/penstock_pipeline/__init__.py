"""Penstock's pipeline: `git push` to a release that every edge serves.

Read downward to follow a push: `receiver` accepts it, `engine` carries it through `stages`, which reach the
world only through the ports in `runtimes`, `images`, `cdn`, `store` and `repositories`; `plan` decides,
`model` names things. `app` puts the parts of the engine's process together, `front` those of the process
that serves visitors and outlives the engine.
"""

__version__ = "0.1.0.dev0"
