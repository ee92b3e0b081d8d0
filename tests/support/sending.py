"""What becomes of a plan on its way from a builder to a worker."""

import io

from aot.builder import messages
from aot.builder.messages import Asked
from aot.builder.tasks.programs import Count
from aot.builder.tasks.task import task_of
from aot.plan import Plan


def sent(plan: Plan) -> Plan:
    """The plan as a worker gets it."""
    (asked,) = messages.received(io.BytesIO(messages.packed(Count(plan).asked())), Asked, lists=True)
    task = task_of(asked)
    assert isinstance(task, Count)
    return task.plan
