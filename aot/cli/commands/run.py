"""`aot run`."""

import contextlib
import itertools
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aot.cli import output, prompting

if TYPE_CHECKING:
    from aot.runtime.peers.distributed import Distributed

_SAMPLING = {
    "--temperature": (float, "Above 0 draws tokens, 0 takes the most probable one."),
    "--top-p": (float, "Draw among the most probable tokens that make up this mass; 0 is one."),
    "--top-k": (int, "Draw among this many most probable tokens; 0 and -1 are all."),
    "--min-p": (float, "Draw among tokens at least this probable relative to the best."),
    "--repetition-penalty": (float, "Above 1 makes tokens of the prompt and the answer less probable."),
    "--presence-penalty": (float, "Subtracted from logits of tokens generated before."),
    "--frequency-penalty": (float, "Subtracted once for each time a token was generated."),
}


def _sampling(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say how tokens are drawn."""
    for name, (kind, text) in reversed(_SAMPLING.items()):
        command = click.option(name, type=kind, help=text)(command)
    return command


@click.command(
    "run",
    epilog=output.examples_epilog(
        'aot run dist/tiny "def main("',
        'aot run dist/tiny --prompt "import " --n 4 --temperature 0.8 --seed 1',
        "aot run dist/tiny --chat conversation.json --stream --stats",
        "git diff | aot run dist/tiny --max-new-tokens 40",
        'aot run dist/tiny-vision --prompt "What is this?" --image picture.png',
    ),
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("texts", metavar="[TEXT]...", nargs=-1)
@click.option("--prompt", "prompts", multiple=True, metavar="TEXT", help="A text to continue; may be repeated.")
@click.option(
    "--chat",
    "chats",
    multiple=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="A conversation to answer: a JSON list of messages with role and content, alone or as messages of an object; "
    "- is stdin; may be repeated.",
)
@click.option(
    "--template-arg",
    "arguments",
    multiple=True,
    metavar="NAME=JSON",
    help="What the chat template takes beside the conversation, as enable_thinking=false; may be repeated.",
)
@click.option("--prompt-ids", "tokens", multiple=True, metavar="1,2,3", help="A prompt as token ids; may be repeated.")
@click.option(
    "--image",
    "images",
    multiple=True,
    metavar="PATH",
    help='A picture for the one prompt: before its text, or in place of {"type": "image"} parts; may be repeated.',
)
@click.option("--max-new-tokens", type=int, help="Tokens to generate at most.")
@_sampling
@click.option("--seed", type=int, help="One for every prompt alike; without it one is drawn, which --json reports.")
@click.option("--stop", multiple=True, metavar="TEXT", help="End before this text; may be repeated.")
@click.option("--n", type=int, help="Sequences for each prompt.")
@click.option("--logprobs", is_flag=True, help="Show each token's id and log-probability, too.")
@click.option("--truncate", is_flag=True, help="Keep the last tokens of a prompt that is too long.")
@click.option(
    "--policy",
    type=click.Choice(["strict", "compile"]),
    default="strict",
    show_default=True,
    help="What to do where no executable fits this machine: fail, or compile.",
)
@click.option(
    "--key", "public_key", type=click.Path(path_type=Path), help="Demand a signature by the pair of this public key."
)
@click.option("--devices", type=click.IntRange(min=1), help="Devices to run on; it takes the largest mesh they hold.")
@click.option("--replicas", metavar="N|all", help="Devices that share the rows, each with all of a one-device bundle.")
@click.option("--coordinator", metavar="HOST:PORT", help="Where the processes of a mesh meet: an address of process 0.")
@click.option("--processes", type=int, help="How many processes share the mesh; start each with the same options.")
@click.option("--process", type=int, help="Which of them this is, from 0; process 0 prints.")
@click.option("--stream", is_flag=True, help="Print text as it comes; for one prompt and one sequence.")
@click.option("--stats", is_flag=True, help="Say on stderr how many tokens it took, and how long.")
@output.as_json
def command(
    bundle: Path, texts: tuple[str, ...], prompts: tuple[str, ...], chats: tuple[Path, ...], arguments: tuple[str, ...],
    tokens: tuple[str, ...], images: tuple[str, ...], policy: str, public_key: Path | None, devices: int | None,
    replicas: str | None, coordinator: str | None, processes: int | None, process: int | None, stream: bool,
    stats: bool, logprobs: bool, as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """Generate from BUNDLE: continue each TEXT, answer conversations.

    Where no prompt is given, and stdin is no terminal, the text is read from there, without the line break at its end;
    as TEXT, - is that too. What else is not given is as the bundle says, which is greedy unless its manifest says
    otherwise.
    """
    if stream and as_json:
        raise click.UsageError("--stream prints text as it comes, --json one document: give one of the two")
    given: list[Any] = [*map(prompting.text_given, texts), *prompts]
    given += [*map(prompting.read_conversation, chats), *map(prompting.parse_ids, tokens)]
    if not given and (piped := prompting.piped_text()):
        given = [piped]
    if not given:
        raise click.UsageError(
            "give a prompt: --prompt TEXT, --chat FILE or --prompt-ids 1,2,3; or a text as argument, or on stdin"
        )
    if stream and len(given) > 1:
        raise click.UsageError(f"--stream takes one prompt, got {len(given)}")
    if images and len(given) > 1:
        raise click.UsageError(f"--image belongs to one prompt, got {len(given)}")
    warnings.filterwarnings("ignore", module=r"PIL\b")  # it speaks of damage to a picture, which is then an error
    chosen = {name: value for name, value in options.items() if value not in (None, ())}
    if arguments:
        chosen["template"] = prompting.parse_template_arguments(arguments)
    if images:
        chosen["images"] = list(images) if stream else [list(images)]
    how: dict[str, Any] = {"policy": policy, "key": public_key, "devices": devices, "replicas": _replicas(replicas)}
    how["distributed"] = _distributed(coordinator, processes, process)
    with _quiet(process or 0) if coordinator else contextlib.nullcontext():
        if stream:
            _stream(bundle, given[0], how, chosen, logprobs=logprobs, stats=stats)
        else:
            _generate(bundle, given, how, chosen, logprobs=logprobs, stats=stats, as_json=as_json)


def _replicas(text: str | None) -> int | str | None:
    return int(text) if text is not None and text.isdecimal() else text


def _distributed(coordinator: str | None, processes: int | None, process: int | None) -> "Distributed | None":
    given = {"--coordinator": coordinator, "--processes": processes, "--process": process}
    if all(value is None for value in given.values()):
        return None
    if missing := [name for name, value in given.items() if value is None]:
        raise click.UsageError(f"{missing[0]} is missing: --coordinator, --processes and --process belong together")
    import aot

    return aot.Distributed(str(coordinator), int(processes or 0), int(process or 0))


@contextlib.contextmanager
def _quiet(process: int) -> Iterator[None]:
    """Stdout is ours alone, and process 0's: Gloo speaks of its peers there."""
    sys.stdout.flush()
    own = os.dup(1)
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.close(nothing)
    before = sys.stdout
    with open(own if process == 0 else os.devnull, "w", encoding="utf-8", errors="backslashreplace") as sys.stdout:
        try:
            yield
        finally:
            sys.stdout = before


def _stream(
    bundle: Path, prompt: Any, how: dict[str, Any], options: dict[str, Any], *, logprobs: bool, stats: bool
) -> None:
    begin = time.perf_counter()
    import aot

    with aot.load(bundle, **how) as model:
        loaded = time.perf_counter()
        run = model.stream(prompt, **options)
        pieces = iter(run)
        first = next(pieces, "")  # a request that is refused prints nothing
        came = time.perf_counter()
        click.echo(prompt if isinstance(prompt, str) else "", nl=False)
        for piece in itertools.chain([first], pieces):
            click.echo(piece, nl=False)
        click.echo()
        timings = {"load_seconds": loaded - begin, "generate_seconds": time.perf_counter() - loaded}
        _say_images(run.results)
        if logprobs:
            _print_logprobs(run.results[0])
        if stats:
            _say_stats(run.results, {**timings, "first_piece_seconds": came - loaded})


def _generate(
    bundle: Path, prompts: list[Any], how: dict[str, Any], options: dict[str, Any], *, logprobs: bool, stats: bool,
    as_json: bool,
) -> None:  # fmt: skip
    begin = time.perf_counter()
    import aot
    from aot.runtime.device import compilations

    with aot.load(bundle, **how) as model:
        loaded = time.perf_counter()
        results = model.generate(prompts, **options)
    timings = {"load_seconds": loaded - begin, "generate_seconds": time.perf_counter() - loaded}
    _say_images(results)
    if stats:
        _say_stats(results, timings)
    if as_json:
        document = {
            "results": [result.to_dict() for result in results],
            "compilations": compilations.count_compilations(),
        }
        output.print_document({**document, "timings": timings})
        return
    for position, result in enumerate(results):
        if position:
            click.echo()  # texts have line breaks of their own
        _print(result)
        if logprobs:
            _print_logprobs(result)


def _say_stats(results: list[Any], timings: Mapping[str, float]) -> None:
    """Tokens and seconds, for a person."""
    given, made = sum(r.prompt_tokens for r in results), sum(len(r.token_ids) for r in results)
    seconds = timings["generate_seconds"]
    first = timings.get("first_piece_seconds")
    shown = "" if first is None else f", the first text after {first:.3f} s"
    click.echo(
        f"loaded in {timings['load_seconds']:.3f} s; {output.counted(given, 'prompt tokens')}, {made} generated in "
        f"{seconds:.3f} s{shown}: {made / seconds:.1f} tokens/s",
        err=True,
    )


def _print(result: Any) -> None:
    if result.generated is None:
        click.echo(",".join(map(str, result.token_ids)))
    else:
        click.echo(result.completed if isinstance(result.prompt, str) else result.text)


def _say_images(results: list[Any]) -> None:
    """What images were brought to, for a person: a line for each prompt that has some."""
    seen: list[Any] = []
    for result in results:
        if result.images and not any(result.prompt is prompt for prompt in seen):
            seen.append(result.prompt)
            shapes = (f"{image['width']} x {image['height']} ({image['tokens']} tokens)" for image in result.images)
            click.echo(f"images brought to {', '.join(shapes)}", err=True)


def _print_logprobs(result: Any) -> None:
    for token, logprob in zip(result.token_ids, result.logprobs, strict=True):
        click.echo(f"{token}\t{logprob:.4f}")
