"""`python -m medai_pipeline.web`: serves the worklist and the API with the settings of the environment."""

from __future__ import annotations

import sys

from medai_pipeline.errors import MedaiError
from medai_pipeline.services import Services
from medai_pipeline.settings import read_settings


def main() -> int:
    from medai_pipeline.web.server import serve

    try:
        serve(Services(read_settings()))
    except MedaiError as error:
        print(f"medai: {error.reason}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
