"""The commands of dev.py and their options."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from .demo import check_options, run_demo
from .host import prepare_host
from .paths import DEMO, DEMO_OUTPUT
from .processes import DevError, explain_os_error, say
from .run_tests import benchmarks, check_benchmark, run_benchmark, run_checks, run_tests
from .server import check_port, serve


def run(arguments: list[str]) -> int:
    """Run a command line; its exit code. What goes wrong is one sentence on stderr, never a traceback."""
    # Being ended or losing the terminal is like Ctrl-C: what was started is stopped.
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.default_int_handler)
    parser = build_parser()
    options, rest = parser.parse_known_args(arguments)
    if rest and options.command not in ("test", "benchmark"):
        parser.error(f"{options.command} does not know {' '.join(rest)}")
    try:
        return run_command(options, rest) or 0
    except DevError as error:
        return complain(str(error))
    except OSError as error:
        return complain(explain_os_error(error))
    except KeyboardInterrupt:
        complain("stopped.")
        return 130


def complain(sentence: str) -> int:
    print(f"dev.py: {sentence}", file=sys.stderr)
    return 1


def run_command(options: argparse.Namespace, rest: list[str]) -> int | None:
    """The command's exit code. What can be refused is refused before the set-up. Raises DevError."""
    if options.command == "demo":
        check_options(options)
        return run_demo(prepare_host(options.comfyui, options.python), options)
    if options.command == "serve":
        check_port(options.port)
        return serve(prepare_host(options.comfyui, options.python), options.port, not options.no_browser)
    if options.command == "test":
        return run_tests(prepare_host(options.comfyui, options.python), rest, options.fast)
    if options.command == "check":
        return run_checks(prepare_host(options.comfyui, options.python))
    if options.name is None:
        for name, words in benchmarks().items():
            say(f"{name}: {words}")
        return 0
    check_benchmark(options.name)
    return run_benchmark(prepare_host(options.comfyui, options.python), options.name, rest)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dev.py",
        allow_abbrev=False,
        description="Set up ComfyUI with this pack inside the checkout, and run it. A second call starts at once.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="demo | test | check | serve | benchmark")

    demo = add_command(commands, "demo", "Run the example workflow on two keyframes and write the video between them.")
    demo.add_argument("--first", type=user_path, default=DEMO / "first.png", metavar="PNG", help="first keyframe")
    demo.add_argument("--last", type=user_path, default=DEMO / "last.png", metavar="PNG", help="last keyframe")
    demo.add_argument("--frames", type=number(2), metavar="N", help="frames of the video, keyframes included")
    demo.add_argument("--steps", type=number(1), metavar="N", help="sampling steps")
    demo.add_argument("--seed", type=number(0), metavar="N", help="seed of the noise")
    out = "folder for inbetween.mp4 and contact_sheet.png (default: demo_output in the checkout)"
    demo.add_argument("--out", type=user_path, default=DEMO_OUTPUT, metavar="DIR", help=out)

    test = add_command(commands, "test", "Run the tests; further arguments are handed to pytest.")
    test.add_argument("--fast", action="store_true", help="only those that take two minutes on two cores")

    add_command(commands, "check", "Run formatter, linter and type checker over the code.")

    command = add_command(commands, "serve", "Serve ComfyUI's window, opened on the example workflow.")
    port = "port on 127.0.0.1 (default: 8188)"
    command.add_argument("--port", type=number(1, 65535), default=8188, metavar="N", help=port)
    command.add_argument("--no-browser", action="store_true", help="only print the address")

    benchmark = add_command(commands, "benchmark", "Run a benchmark; further arguments are handed to it.")
    benchmark.add_argument("name", nargs="?", metavar="NAME", help="which one; without it the benchmarks are listed")
    return parser


def add_command(commands: argparse._SubParsersAction, name: str, words: str) -> argparse.ArgumentParser:
    """A command with the options that all of them have."""
    command = commands.add_parser(name, help=words, description=words, allow_abbrev=False)
    command.add_argument("--comfyui", metavar="PATH", help="use this ComfyUI with its own Python; it is only read")
    command.add_argument("--python", metavar="PATH", help="the Python of that ComfyUI, where it is not found by itself")
    return command


def user_path(text: str) -> Path:
    return Path(text).expanduser().absolute()


def number(lowest: int, highest: int | None = None) -> Callable[[str], int]:
    """An argparse type: a whole number in a range."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = lowest - 1
        if value < lowest or (highest is not None and value > highest):
            limits = f"{lowest} or more" if highest is None else f"between {lowest} and {highest}"
            raise argparse.ArgumentTypeError(f"a whole number, {limits}, is expected, not {text!r}")
        return value

    return parse
