"""Answers that users disagree on and nobody has decided: they are spared for a while."""

from trivium.corrections.evidence import gather
from trivium.corrections.review import queue
from trivium.features import Feature
from trivium.store.corrections import CorrectionRepository
from trivium.store.engine import Database
from trivium.store.retention import judged_payloads
from trivium.store.sweeps import Place, Sweeper


async def disputed(
    database: Database, feature: Feature, before: float, after: Place | None
) -> frozenset[str]:
    """The ids of inferences that an open question of `trivium review` rests on.

    Empty, without a look at the rest, if nothing was said of any answer that would lose its payload.

    Args:
        database: of the answers.
        feature: whose.
        before: payloads from before this moment would go.
        after: where in them the last look ended.

    Raises:
        Unavailable: the database is away.
    """
    sweep = judged_payloads(feature.name, before)
    async for step in Sweeper(database).steps(sweep, after, dry=True):
        if step.counts[sweep.name]:
            break
    else:
        return frozenset()
    repository = CorrectionRepository(database)
    evidence = await gather(feature, repository)
    waiting = queue(feature, evidence, await repository.verdicts(feature.name))
    return frozenset(one.inference_id for question in waiting for one in question.tally.opinions)
