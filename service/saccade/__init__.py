"""The Python client of Saccade: pictures in, labels with probabilities out.

    from saccade import Client

    with Client("localhost:8001") as client:
        print(client.classify("cat.jpg").classifications[0][0].label)

An application may have a package `service` of its own, so this one never imports `service`: the wheel has copies of
what the client needs in here.
"""

import sys
from pathlib import Path

if not Path(__file__).with_name("public.py").is_file():
    # An editable install, which has no copies: what they would be made of is in a folder on sys.path.
    __path__ = [str(Path(entry, "service")) for entry in sys.path if Path(entry, "service/public.py").is_file()]

from saccade.public import *  # noqa: F403
from saccade.public import __all__ as __all__
