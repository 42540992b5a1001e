"""How hypothesis draws: no deadline for an example, since machines that test are busy with other
tests too; and where a change lands the same examples each time, so that none is refused for what
it has not changed."""

import os

from hypothesis import settings

settings.register_profile("anew", deadline=None)
settings.register_profile("the same", deadline=None, derandomize=True)
settings.load_profile("the same" if os.environ.get("CI") else "anew")
