"""Writes service/rpc/pb from the .proto files here; `--check` only says whether that would change anything.

python protos/generate.py
python protos/generate.py --check
"""

import re
import sys
import tempfile
from pathlib import Path

import google.rpc
import grpc_tools
from grpc_tools import protoc

PROTOS = Path(__file__).parent
GENERATED = PROTOS.parent / "service/rpc/pb"
FILES = [
    "inference/extensions.proto",
    "inference/model_config.proto",
    "inference/service.proto",
    "saccade/v1/classifier.proto",
]


def generate(folder: Path) -> None:
    """Compile FILES into `folder`, with imports that work wherever the folder is a package."""
    well_known = next(iter(google.rpc.__path__))
    bundled = Path(grpc_tools.__file__).parent / "_proto"
    include = [f"-I{PROTOS}", f"-I{Path(well_known).parent.parent}", f"-I{bundled}"]
    out = [f"--{kind}_out={folder}" for kind in ("python", "pyi", "grpc_python")]
    if protoc.main(["protoc", *include, *out, *FILES]) != 0:
        sys.exit("protoc failed; its message is above")
    packages = {name.rpartition("/")[0] for name in FILES}
    for path in sorted(folder.rglob("*_pb2*.py*")):
        if path.suffix == ".pyc":
            continue
        # protoc writes absolute imports of the protos' own packages, which is not where the code lives. Relative ones
        # work in service/rpc/pb, and in the copy that the wheel has in its module `saccade`.
        text = path.read_text()
        here = path.relative_to(folder).parent
        for package in packages:
            up = "." * (1 + len(here.parts))
            there = "." if str(here) == package else up + package.replace("/", ".")
            text = re.sub(
                rf"^from {package.replace('/', '.')} import ", f"from {there} import ", text, flags=re.MULTILINE
            )
        path.write_text(text)


def contents(folder: Path) -> dict[str, bytes]:
    """Return the generated files of `folder` by relative path."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*_pb2*.py*"))
        if path.suffix != ".pyc"
    }


def main() -> None:
    """Generate, or compare."""
    if "--check" not in sys.argv:
        generate(GENERATED)
        return
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        if contents(Path(folder)) != contents(GENERATED):
            sys.exit("service/rpc/pb is not what the .proto files give: run `make protos` and commit the result")


if __name__ == "__main__":
    main()
