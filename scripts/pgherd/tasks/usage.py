"""What is typed, read before Invoke reads it: a mistake in it ends with status 2 and one sentence.

Invoke loads tasks.py, then reads the words, tells a mistake in words of its own, and ends with 1;
it has no place where that can be changed. But while tasks.py is loaded, Invoke's program is there
with the words that it has left, the same parser finds the same mistakes in them, and a tasks file
may end a run by `Exit`, which `Refused` is. So nothing of Invoke is replaced, and where another
program loads tasks.py nothing is read here. Only mistakes in Invoke's own options (`--config`
without a value) come before that, and end with 1 as ever.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable
from copy import deepcopy

from invoke.collection import Collection
from invoke.exceptions import ParseError
from invoke.main import program
from invoke.parser.context import ParserContext
from invoke.parser.parser import Parser

from pgherd.errors import Refused, quoted


def check_words(tasks: Collection) -> None:
    """Refuse what is typed where it cannot be what is meant.

    Raises:
        Refused: no such task, group of tasks or option; a word or a value is missing,
            or is no number; `on` is not the first task, or the only one.
    """
    if not hasattr(program, "core"):
        return
    contexts = deepcopy(tasks).to_contexts()  # a task gives its help away but once
    parser = Parser(contexts=contexts, initial=program.initial_context)
    kinds = (("help", "task", parser.contexts), ("list", "group of tasks", tasks.collections))
    for option, kind, known in kinds:
        word = program.args[option].value
        if isinstance(word, str) and word not in known:
            raise _no_such(f"There is no {kind} {quoted(word)}.", word, known, "invoke --list")
    try:
        _, *typed = parser.parse_argv(program.core.unparsed)
    except ParseError as fault:
        raise _explain(fault, parser.contexts) from None
    except ValueError as fault:  # "invalid literal for int() with base 10: 'x'"
        word = str(fault).rpartition(": ")[2]
        raise Refused(f"{word} is given where a number is wanted.") from None
    for context in typed:
        _check_places(context)
    _check_on(typed, parser.contexts)


def _check_places(context: ParserContext) -> None:
    """Refuse an option where a word is wanted: Invoke takes it for that word."""
    for argument in context.positional_args:
        if str(argument.value or "").startswith("-"):
            given = quoted(argument.value)
            more = f"It was given {given}; `invoke --help {context.name}` explains it."
            raise Refused(f"{_explain_missing(context)} {more}")


def _check_on(typed: list[ParserContext], tasks: Container[str]) -> None:
    """Refuse `on HOST` where it is not the first task: the ones before it would be done here."""
    for number, context in enumerate(typed):
        if context.name != "on":
            continue
        host = str(context.args["host"].value)
        shown = f"`invoke on {host}`"
        if number:
            raise Refused(f"`on {host}` comes before all other tasks, and once.")
        if host in tasks:
            raise Refused(f"{shown}: {host} is a task, and before it comes a host.")
        if host and typed == [context]:
            raise Refused(f"{shown} wants the tasks for it: invoke on {host} hosts.")


def _explain(fault: ParseError, tasks: Iterable[str]) -> Refused:
    """Return the end of a run whose words Invoke cannot read.

    Invoke tells the kinds of mistakes apart by its sentences only; of one that is not known here,
    its sentence is told.
    """
    said, context = str(fault), fault.context
    if context and context.name:
        _check_places(context)
        if context.missing_positional_args:
            return Refused(_explain_missing(context))
    if found := re.fullmatch(r"Flag <Argument: ([\w-]+).*> needed value .*", said, re.DOTALL):
        return Refused(_explain_value(context, found[1]))
    if found := re.fullmatch(r"No idea what (.*) is!", said, re.DOTALL):
        return _explain_unknown(context, found[1], tasks)
    return Refused(said)


def _explain_unknown(context: ParserContext | None, shown: str, tasks: Iterable[str]) -> Refused:
    """Return the end of a run where a word is neither a task nor an option."""
    word, name = shown.strip("'\""), context.name if context else None
    if not word.startswith("-"):
        if not name:
            return _no_such(f"There is no task {shown}.", word, tasks, "invoke --list")
        text = f"There is no task {shown}, and {name} takes no further word."
        return _no_such(text, word, tasks, f"invoke --help {name}")
    if context and name:
        options = [*context.flags, *context.inverse_flags]
        return _no_such(f"{name} has no option {shown}.", word, options, f"invoke --help {name}")
    core = program.initial_context.flags
    return _no_such(f"invoke has no option {shown}.", word, core, "invoke --help")


def _no_such(text: str, word: str, known: Iterable[str], more: str) -> Refused:
    """Return the end of a run that names the nearest of what there is, or where to find all."""
    from difflib import get_close_matches

    names = {name.lstrip("-"): name for name in known}
    near = get_close_matches(word.lstrip("-"), list(names), n=1)
    hint = f"Did you mean `{names[near[0]]}`?" if near else f"`{more}` tells what there is."
    return Refused(f"{text} {hint}")


def _explain_missing(context: ParserContext) -> str:
    """Say which words a task needs, and how it is typed."""
    needed = [str(argument.name) for argument in context.positional_args]
    what = ", ".join(f"{name.upper()} ({context.args[name].help})" for name in needed)
    typed = " ".join([str(context.name), *(name.upper() for name in needed)])
    return f"{context.name} needs {what}: `invoke {typed}`."


def _explain_value(context: ParserContext | None, name: str) -> str:
    """Say that an option lacks its value, and what that is."""
    flag = f"--{name.replace('_', '-')}"
    task = context.name if context else None
    known = (context.flags.get(flag) if context else None) or program.initial_context.flags[flag]
    return f"{task or 'invoke'} {flag} needs a value{f': {known.help}' if known.help else ''}."
