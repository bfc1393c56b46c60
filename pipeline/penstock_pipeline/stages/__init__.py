"""One stage a file, in the order a push meets them. Each may be run again after a crash: what it brings about
exists once."""

from collections.abc import Mapping

from ..model import StageName
from .approve import approve
from .build import build
from .checkout import checkout
from .deploy import deploy
from .refresh import refresh
from .start import start
from .test import test
from .upload import upload
from .work import Artefact, Outcome, Parts, Stage, Work

STAGES: Mapping[StageName, Stage] = {
    StageName.CHECKOUT: checkout,
    StageName.TEST: test,
    StageName.BUILD: build,
    StageName.UPLOAD: upload,
    StageName.APPROVE: approve,
    StageName.START: start,
    StageName.DEPLOY: deploy,
    StageName.REFRESH: refresh,
}

__all__ = ["STAGES", "Artefact", "Outcome", "Parts", "Stage", "Work"]
