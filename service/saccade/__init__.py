"""The Python client of Saccade: pictures in, labels with probabilities out.

    from saccade import Client

    with Client("localhost:8001") as client:
        print(client.classify("cat.jpg").classifications[0][0].label)

An application may have a package `service` of its own. So this one, which the wheel installs at the top level, takes
its modules from the folder `service` that was installed with it under its own name: `saccade.client` and
`service.client` are the same file, and it never imports `service`.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

_BESIDE = str(Path(__file__).parents[1])
# An editable install leaves the folder where it is, and puts what holds it on sys.path.
__path__ = [str(Path(entry, "service")) for entry in (_BESIDE, *sys.path) if Path(entry, "service/public.py").is_file()]

if TYPE_CHECKING:
    from service.public import *  # noqa: F403 - where the wheel is installed, that is the same
else:
    from saccade.public import *  # noqa: F403
