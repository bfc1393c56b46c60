"""`penstock up`, but the engine ends itself by SIGKILL in one stage: `dying.py STAGE:before|after up …`.

`before`: recorded as begun, nothing done. `after`: everything done, nothing recorded. The worst two moments.
"""

import os
import signal
import sys

from penstock_pipeline.cli import main
from penstock_pipeline.model import StageName
from penstock_pipeline.stages import STAGES, Outcome, Stage, Work


def dying(stage: Stage, when: str) -> Stage:
    async def die(work: Work) -> Outcome:
        if when == "after":
            await stage(work)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    return die


if __name__ == "__main__":
    name, moment = sys.argv.pop(1).split(":")
    STAGES[StageName(name)] = dying(STAGES[StageName(name)], moment)  # type: ignore[index]
    main()
