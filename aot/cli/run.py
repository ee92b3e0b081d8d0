"""`aot run`."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from aot.cli import output
from aot.errors import InputError


def _sampling(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say how tokens are drawn; without them the bundle's defaults hold."""
    floats = (
        "--temperature",
        "--top-p",
        "--min-p",
        "--repetition-penalty",
        "--presence-penalty",
        "--frequency-penalty",
    )
    for name in floats:
        command = click.option(name, type=float)(command)
    return click.option("--top-k", type=int)(command)


@click.command("run")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--prompt", "prompts", multiple=True, metavar="TEXT", help="A text to continue; may be repeated.")
@click.option(
    "--chat", "chats", multiple=True, type=click.Path(path_type=Path), help="A JSON file with a conversation."
)
@click.option("--prompt-ids", "tokens", multiple=True, metavar="1,2,3", help="A prompt as token ids.")
@click.option("--max-new-tokens", type=int, help="Tokens to generate at most.")
@_sampling
@click.option("--seed", type=int, help="One for every prompt alike [drawn, and reported].")
@click.option("--stop", multiple=True, metavar="TEXT", help="End before this text; may be repeated.")
@click.option("--n", type=int, help="Sequences for each prompt.")
@click.option("--logprobs", is_flag=True, help="Show the log-probability of each token.")
@click.option("--truncate", is_flag=True, help="Keep the last tokens of a prompt that is too long.")
@click.option("--policy", type=click.Choice(["strict", "compile"]), default="strict", show_default=True)
@click.option("--stream", is_flag=True, help="Print text as it comes; for one prompt.")
@output.as_json
def command(
    bundle: Path, prompts: tuple[str, ...], chats: tuple[Path, ...], tokens: tuple[str, ...], policy: str,
    stream: bool, logprobs: bool, as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """Generate from BUNDLE. Nothing compiles, unless --policy compile says that it may."""
    if stream and as_json:
        raise click.UsageError("--stream prints text as it comes, --json one document: give one of the two")
    given: list[Any] = [*prompts, *(_conversation(path) for path in chats), *(_ids(text) for text in tokens)]
    if not given:
        raise click.UsageError("give a prompt: --prompt TEXT, --chat FILE or --prompt-ids 1,2,3")
    chosen = {name: value for name, value in options.items() if value is not None}
    _run(bundle, given, policy, chosen, stream=stream, logprobs=logprobs, as_json=as_json)


def _run(
    bundle: Path,
    prompts: list[Any],
    policy: str,
    options: dict[str, Any],
    *,
    stream: bool,
    logprobs: bool,
    as_json: bool,
) -> None:
    begin = time.perf_counter()
    import aot
    from aot.runtime import client

    with aot.load(bundle, policy=policy) as model:
        loaded = time.perf_counter()
        if stream:
            if len(prompts) > 1:
                raise click.UsageError("--stream takes one prompt")
            for piece in model.stream(prompts[0], **options):
                click.echo(piece, nl=False)
            click.echo()
            return
        results = model.generate(prompts, **options)
    timings = {"load_seconds": loaded - begin, "generate_seconds": time.perf_counter() - loaded}
    if as_json:
        document = {"results": [result.to_dict() for result in results], "compilations": client.compilations()}
        output.document({**document, "timings": timings})
        return
    for result in results:
        _print(result, logprobs)


def _print(result: Any, logprobs: bool) -> None:
    if result.generated is None:
        click.echo(",".join(map(str, result.token_ids)))
    else:
        click.echo(result.completed if isinstance(result.prompt, str) else result.text)
    if logprobs:
        for token, logprob in zip(result.token_ids, result.logprobs, strict=True):
            click.echo(f"{token}\t{logprob:.4f}")


def _conversation(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path}: is not JSON ({error}); give a list of messages with role and content") from error


def _ids(text: str) -> list[int]:
    try:
        return [int(token) for token in text.split(",")]
    except ValueError:
        raise InputError(f"--prompt-ids: must be integers with commas between, got {text!r}") from None
