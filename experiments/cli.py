"""The command line of an experiment: a preset, any field over it, one-line errors."""

import argparse
import contextlib
import inspect
import io
import logging
import os
import sys
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import tyro

from experiments.data import DataError
from experiments.errors import NotFinite, RunError


class Preset(NamedTuple):
    """A config, and a line on what it does and costs."""

    config: Any
    cost: str


def by_device(*, cpu: str, accelerator: str) -> str:
    """The name of the preset that suits the device JAX has found."""
    return cpu if jax.default_backend() == "cpu" else accelerator


def main(
    run: Callable[[Any], Any],
    presets: Mapping[str, Preset],
    default: Callable[[], str],
    args: Sequence[str] | None = None,
) -> int:
    """Parses `[--preset name] [--field value …]`, runs, and returns the exit status.

    What a user can mend (an argument, the data, the run's folder) is one line on the
    standard error. With JAXPRUNE_TRACEBACK=1 in the environment it is raised instead.

    Args:
      run: the experiment, from a config.
      presets: by name; their configs are frozen dataclasses of one type.
      default: gives the name of the preset to take when none is named.
      args: the arguments; those of the process by default.

    Returns:
      0; 1 when numbers are no longer finite; 2 for bad input; 130 after Ctrl-C.
    """
    args = list(sys.argv[1:] if args is None else args)
    try:
        name, config = parse(presets, default, args)
        print(f"preset {name}: {presets[name].cost}", flush=True)
        run(config)
    except KeyboardInterrupt:
        return _say("stopped; the same command goes on from here", 130)
    except (DataError, RunError, NotFinite, ValueError) as error:
        if os.environ.get("JAXPRUNE_TRACEBACK"):
            raise
        text = " ".join(str(error).split())
        return _say(f"error: {text}", 1 if isinstance(error, NotFinite) else 2)
    return 0


def parse(
    presets: Mapping[str, Preset], default: Callable[[], str], args: Sequence[str]
) -> tuple[str, Any]:
    """The preset's name and the config, with the fields that `args` override.

    Raises:
      ValueError: an unknown preset or field, or a value that does not fit.
      SystemExit: after `--help`.
    """
    named, fields = _split(args)
    name = default() if named is None else named
    if name not in presets:
        raise ValueError(f"unknown preset {name!r}: choose from {', '.join(presets)}")
    config = presets[name].config
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            parsed = tyro.cli(
                type(config),
                default=config,
                args=fields,
                prog=_program(presets),
                description=_description(config, presets, name),
            )
    except SystemExit as exit:
        if exit.code:
            raise ValueError(_first_message(errors.getvalue())) from None
        raise
    return name, parsed


def peek(option: str, choices: Container[str], args: Sequence[str]) -> str | None:
    """What `args` give for an option that presets depend on.

    None where that is nothing, or no choice: it is refused later, with the rest.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(option, nargs="?", dest="value")
    value = parser.parse_known_args(args)[0].value
    return value if value in choices else None


def _program(presets: Mapping[str, Preset]) -> str:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    program = f"python -m {spec.name}" if spec else os.path.basename(sys.argv[0])
    return f"{program} [{'|'.join(presets)}]"


def _split(args: Sequence[str]) -> tuple[str | None, list[str]]:
    """The preset that is named, if one is, and the other arguments."""
    parser = argparse.ArgumentParser(
        add_help=False, allow_abbrev=False, exit_on_error=False
    )
    parser.add_argument("--preset")
    try:
        known, rest = parser.parse_known_args(args)
    except argparse.ArgumentError as error:
        raise ValueError(str(error)) from None
    return known.preset, rest


def _description(config: Any, presets: Mapping[str, Preset], name: str) -> str:
    costs = [f"  {key}: {preset.cost}" for key, preset in presets.items()]
    return "\n".join(
        [
            inspect.cleandoc(type(config).__doc__ or ""),
            "",
            "A preset may be named first; fields given after it override it.",
            *costs,
            "",
            f"The defaults below are those of {name}.",
        ]
    )


def _first_message(box: str) -> str:
    """The message in tyro's framed error, which is what stands above its first rule."""
    rows = [line.strip("│╭╮╰╯ \n") for line in box.splitlines()[1:]]
    message = []
    for row in rows:
        if row.startswith("─"):
            break
        message.append(row)
    return " ".join(message) + "; --help lists all fields"


def show_log() -> None:
    """Lets the experiments' log, such as each step on the way to the data, be seen."""
    log = logging.getLogger("experiments")
    log.setLevel(logging.INFO)
    log.propagate = False  # libraries hang handlers on the root logger
    if not log.handlers:
        log.addHandler(logging.StreamHandler(sys.stdout))


def _say(line: str, status: int) -> int:
    print(line, file=sys.stderr)
    return status
