"""The front door: parses, hands over to a command, prints what it returns. Computes nothing, imports nothing heavy.

Exit status: 0 done, 2 wrong use or bad input (one line on stderr), 1 anything else, 130 interrupted.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import json
import keyword
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Any

from diffdpo import __version__
from diffdpo.errors import UserError
from scorers.errors import ScorerError

COMMANDS = ("demo", "label", "import", "train", "generate", "score", "bench", "compare", "frontier", "report", "export")
"""Each is a module of `diffdpo.commands` with HELP, add_arguments(parser), run(args) -> result and show(result)."""


_ON_DISK = {
    errno.ENOENT: "no such file or folder",
    errno.ENOTDIR: "a part of this path is a file, not a folder; name another place",
    errno.EISDIR: "a folder; name a file",
    errno.EEXIST: "a file is there already; name another place",
    errno.EACCES: "no permission to use it; name another place, or change its permissions",
    errno.EPERM: "no permission to use it; name another place, or change its permissions",
    errno.EROFS: "the disk is read-only; name another place",
    errno.ENOSPC: "the disk is full; make room and give the same command again",
    errno.EDQUOT: "your share of the disk is full; make room and give the same command again",
    errno.ENAMETOOLONG: "the name is too long",
}
"""What the system says of a file that the user named, and what to do."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and leave the process with its exit status."""
    sys.exit(run(sys.argv[1:] if argv is None else argv))


def run(argv: Sequence[str]) -> int:
    """Run the command line and return its exit status."""
    args = _parser(argv).parse_args(argv)
    command = _module(args.command)
    _quieten_libraries()
    try:
        result: dict[str, Any] = command.run(args)
    except (UserError, ScorerError) as error:
        return _complain(str(error))
    except OSError as error:
        if error.filename is None or error.errno not in _ON_DISK:
            return _unexpected(error)
        return _complain(f"{error.filename}: {_ON_DISK[error.errno]}")
    except KeyboardInterrupt:
        print("interrupted; start the same command again to go on", file=sys.stderr)
        return 130
    except Exception as error:
        return _unexpected(error)
    try:
        if args.json:
            print(json.dumps(result, ensure_ascii=False))
        else:
            command.show(result)
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


class _Parser(argparse.ArgumentParser):
    """Complains in one line, like every other error."""

    def error(self, message: str) -> Any:
        self.exit(_complain(f"{message}; see {self.prog} --help"))


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    about = "Preference tuning of diffusion and language models: label, train, measure. To begin: diffdpo demo"
    parser = _Parser(prog="diffdpo", description=about)
    parser.add_argument("--version", action="version", version=f"diffdpo {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in COMMANDS:
        module = _module(name)
        sub = commands.add_parser(name, help=module.HELP, description=module.HELP[0].upper() + module.HELP[1:] + ".")
        module.add_arguments(sub)
        sub.add_argument("--json", action="store_true", help="print the result as one JSON object")
    return parser


def _module(name: str) -> Any:
    """The module of a command; a word that Python keeps for itself has a `_` behind it there."""
    return importlib.import_module(f"diffdpo.commands.{name}{'_' * keyword.iskeyword(name)}")


def _complain(message: str) -> int:
    print(f"diffdpo: {' '.join(message.split())}", file=sys.stderr)
    return 2


def _unexpected(error: Exception) -> int:
    if os.strerror(errno.ENOSPC) in str(error):  # of a library that has an error of its own for it, as safetensors
        return _complain(_ON_DISK[errno.ENOSPC])
    if os.environ.get("DIFFDPO_TRACEBACK", "1") != "0":
        traceback.print_exception(error)
    print(f"diffdpo: unexpected error: {type(error).__name__}: {error}", file=sys.stderr)
    return 1


def _quieten_libraries() -> None:
    """Warnings and progress bars of the libraries would bury our own lines; their settings are respected if made."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TQDM_DISABLE", "1")  # transformers draws one of its own for a .gguf file
    warnings.filterwarnings("ignore", module=r"(torch|diffusers|transformers|peft|open_clip|huggingface_hub)")
