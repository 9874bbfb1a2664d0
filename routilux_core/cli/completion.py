"""`routilux completion`: a script that lets a shell complete the command, made of the parser itself."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

HOW = {
    "bash": 'eval "$(routilux completion bash)", in ~/.bashrc',
    "zsh": 'eval "$(routilux completion zsh)", in ~/.zshrc behind compinit',
    "fish": "routilux completion fish > ~/.config/fish/completions/routilux.fish",
}


class Word(NamedTuple):
    """What may be typed, and what it does."""

    text: str
    help: str
    takes_value: bool = False


class Command(NamedTuple):
    """A command by its path, `/new/flow`, with the commands below it and its options; `""` is `routilux` itself."""

    path: str
    below: list[Word]
    options: list[Word]


def add_commands(subparsers: Any) -> None:
    """Add the command."""
    text = "print a script that completes this command in a shell"
    command = subparsers.add_parser(
        "completion", help=text, description=f"{text[0].upper()}{text[1:]}: {'; '.join(HOW.values())}."
    )
    command.add_argument("shell", choices=[*SCRIPTS], help="the shell")
    command.set_defaults(run=functools.partial(_print, subparsers))


def _print(subparsers: Any, options: argparse.Namespace) -> int:
    root = Command("", _below(subparsers), [Word("--help", "show help"), Word("--version", "print the version")])
    print(SCRIPTS[options.shell]([root, *_commands(subparsers, "")]))
    return 0


def _commands(subparsers: Any, above: str) -> Iterator[Command]:
    for name, parser in subparsers.choices.items():
        path, below = f"{above}/{name}", [each for each in parser._actions if isinstance(each, _Below)]
        words = [word for each in below for word in _below(each)]
        words += [Word(str(each), "") for action in parser._actions for each in _choices(action)]
        yield Command(path, words, [*_options(parser)])
        for each in below:
            yield from _commands(each, path)


_Below: Any = argparse._SubParsersAction


def _below(subparsers: Any) -> list[Word]:
    return [Word(each.dest, each.help or "") for each in subparsers._choices_actions]


def _choices(action: argparse.Action) -> list[Any]:
    """Return what a positional argument may be, where that is one of a few."""
    few = not action.option_strings and not isinstance(action, _Below) and action.choices
    return [*few] if few else []


def _options(parser: argparse.ArgumentParser) -> Iterator[Word]:
    for action in parser._actions:
        long = [each for each in action.option_strings if each.startswith("--")]
        if long and action.help != argparse.SUPPRESS:
            yield Word(long[0], (action.help or "").replace("%%", "%"), action.nargs != 0)


def _texts(words: list[Word]) -> str:
    return " ".join(word.text for word in words)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _patterns(commands: list[Command]) -> str:
    return "|".join(each.path for each in commands if each.path)


def bash(commands: list[Command]) -> str:
    """Return the script for bash: where neither a command nor an option is due, it completes the names of files."""
    cases = "\n".join(
        f"        {_quoted(each.path)}) below={_quoted(_texts(each.below))} options={_quoted(_texts(each.options))} ;;"
        for each in commands
    )
    return f"""\
_routilux() {{
    local current="${{COMP_WORDS[COMP_CWORD]}}" at="" below="" options="" word
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        case "$at/$word" in {_patterns(commands)}) at="$at/$word" ;; esac
    done
    case "$at" in
{cases}
    esac
    COMPREPLY=()
    if [[ $current == -* ]]; then
        COMPREPLY=($(compgen -W "$options" -- "$current"))
    elif [[ -n $below ]]; then
        COMPREPLY=($(compgen -W "$below" -- "$current"))
    fi
}}
complete -o default -F _routilux routilux"""


def zsh(commands: list[Command]) -> str:
    """Return the script for zsh."""

    def told(words: list[Word]) -> str:
        return " ".join(_quoted(f"{word.text}:{word.help}" if word.help else word.text) for word in words)

    cases = "\n".join(
        f"        {_quoted(each.path)}) below=({told(each.below)}) flags=({told(each.options)}) ;;" for each in commands
    )
    return f"""\
#compdef routilux
_routilux() {{
    local at="" word
    local -a below flags
    for word in "${{(@)words[2,CURRENT-1]}}"; do
        case "$at/$word" in {_patterns(commands)}) at="$at/$word" ;; esac
    done
    case "$at" in
{cases}
    esac
    if [[ ${{words[CURRENT]}} == -* ]]; then
        _describe option flags
    elif (( $#below )); then
        _describe command below
    else
        _files
    fi
}}
compdef _routilux routilux"""


def fish(commands: list[Command]) -> str:
    """Return the script for fish."""
    lines = []
    for each in commands:
        seen = each.path.split("/")[1:]
        where = " && ".join(f"__fish_seen_subcommand_from {name}" for name in seen) or "true"
        if each.below:
            nothing_below = f"not __fish_seen_subcommand_from {_texts(each.below)}"
            for word in each.below:
                lines.append(_fish(f"{where} && {nothing_below}", f"-f -a {word.text}", word.help))
        elsewhere = "" if each.path else " && __fish_use_subcommand"
        for word in each.options:
            lines.append(_fish(where + elsewhere, f"-l {word.text[2:]}{' -r' * word.takes_value}", word.help))
    return "\n".join(lines)


def _fish(where: str, what: str, text: str) -> str:
    return f"complete -c routilux -n {_quoted(where)} {what} -d {_quoted(text)}"


SCRIPTS = {"bash": bash, "zsh": zsh, "fish": fish}
