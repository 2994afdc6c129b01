"""`trivium prompt`: what a model is sent, and which version of it."""

import json
import shutil
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trivium.domain.variants import ApiVariant
from trivium.errors import InvalidRequest, NotFound
from trivium.features import Feature, LoadedVariant, find_feature, load_catalogue
from trivium.settings import Settings

if TYPE_CHECKING:
    from trivium.llm.prompts import Prompt

app = typer.Typer(help="Prompts.", no_args_is_help=True)
_GIT_S = 5.0


@dataclass(frozen=True, slots=True)
class Commit:
    """The commit that last changed a file, and whether the file differs from it now."""

    commit: str
    date: str
    subject: str
    modified_since: bool

    def __str__(self) -> str:
        told = f"{self.commit} {self.date} {self.subject}"
        return f"{told} (modified since)" if self.modified_since else told


@app.callback()
def _group() -> None:
    """Prompts."""


@app.command("render")
def render(
    feature: Annotated[str, typer.Argument(help="Its name.")],
    variant: Annotated[str | None, typer.Option(help="By default the first that has a prompt.")] = None,
    given: Annotated[
        str | None, typer.Option("--input", help="JSON; by default the manifest's example.")
    ] = None,
    input_file: Annotated[Path | None, typer.Option(help="A file with the input.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Shows what the model is sent for an input, turn by turn, and the prompt's version."""
    loaded = find_feature(Settings().features_dir, feature)
    chosen = _choose(loaded, variant)
    values = _input_of(loaded, given, input_file)
    prompt = _prompt_of(loaded, chosen)
    turns = [{"role": turn.role, "content": turn.content} for turn in prompt.render(values)]
    told = _about(loaded, chosen, prompt)
    if as_json:
        typer.echo(json.dumps(told | {"input": values, "messages": turns}, indent=2, ensure_ascii=False))
        return
    _echo_about(told)
    for turn in turns:
        typer.secho(f"\n## {turn['role']}", bold=True)
        typer.echo(turn["content"])


@app.command("list")
def list_prompts(
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Shows every prompt of every feature: its version, its variables, its last commit."""
    catalogue = load_catalogue(Settings().features_dir)
    told = [
        _about(feature, variant, _prompt_of(feature, variant))
        for feature in catalogue
        for variant in feature.variants.values()
        if variant.prompt is not None
    ]
    if as_json:
        typer.echo(json.dumps(told, indent=2, ensure_ascii=False))
        return
    for number, one in enumerate(told):
        if number:
            typer.echo()
        _echo_about(one)


def last_commit(path: Path) -> Commit | None:
    """The commit that last changed a file; None without git, outside a repository, or if there is none."""
    logged = _git(path, "log", "-1", "--format=%h%x00%cs%x00%s", "--", path.name)
    if logged is None or logged.returncode != 0 or not logged.stdout.strip():
        return None
    commit, date, subject = logged.stdout.strip().split("\0")
    differs = _git(path, "diff", "--quiet", "--no-ext-diff", "HEAD", "--", path.name)
    return Commit(commit, date, subject, modified_since=differs is not None and differs.returncode == 1)


def _git(path: Path, *words: str) -> "subprocess.CompletedProcess[str] | None":
    program = shutil.which("git")
    if program is None:
        return None
    command = [program, "--no-optional-locks", "-C", str(path.resolve().parent), *words]
    try:
        return subprocess.run(  # noqa: S603
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_GIT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None


def _choose(feature: Feature, name: str | None) -> LoadedVariant:
    """The variant of that name, or the first with a prompt, the served one before the others."""
    served = feature.manifest.serve
    order = sorted(feature.variants.values(), key=lambda variant: variant.name != served)
    prompted = {variant.name: variant for variant in order if variant.prompt is not None}
    if not prompted:
        raise NotFound(f"No variant of {feature.name} has a prompt")
    if name is None:
        return next(iter(prompted.values()))
    if name not in prompted:
        told = "has no prompt" if name in feature.variants else "is not there"
        raise NotFound(f"{feature.name}: the variant {name!r} {told}; there are: {', '.join(prompted)}")
    return prompted[name]


def _input_of(feature: Feature, given: str | None, file: Path | None) -> dict[str, Any]:
    if given is not None and file is not None:
        raise InvalidRequest("--input and --input-file: give one of them")
    if given is None and file is None:
        return feature.manifest.example.input
    where = "--input" if file is None else str(file)
    try:
        values = json.loads(file.read_text(encoding="utf-8") if file is not None else str(given))
    except ValueError as error:
        raise InvalidRequest(f"{where}: not JSON: {error}") from error
    if not isinstance(values, dict):
        raise InvalidRequest(f"{where}: is {values!r:.100}, not an object")
    feature.check_input(values)
    return values


def _prompt_of(feature: Feature, variant: LoadedVariant) -> "Prompt":
    from trivium.llm.prompts import Prompt

    return Prompt(variant.prompt or "", str(_path_of(feature, variant)), feature.manifest.input)


def _path_of(feature: Feature, variant: LoadedVariant) -> Path:
    assert isinstance(variant.spec, ApiVariant)
    return feature.folder / variant.spec.prompt


def _about(feature: Feature, variant: LoadedVariant, prompt: "Prompt") -> dict[str, Any]:
    commit = last_commit(_path_of(feature, variant))
    return {
        "feature": feature.name,
        "variant": variant.name,
        "variant_version": variant.version,
        "prompt": prompt.source,
        "prompt_version": prompt.version,
        "variables": prompt.variables,
        "git": asdict(commit) if commit else None,
    }


def _echo_about(told: dict[str, Any]) -> None:
    variables = ", ".join(f"{name}: {kind}" for name, kind in told["variables"].items())
    git = Commit(**told["git"]) if told["git"] else "no commit known"
    typer.echo(f"feature    {told['feature']}")
    typer.echo(f"variant    {told['variant']} {told['variant_version']}")
    typer.echo(f"prompt     {told['prompt']} {told['prompt_version']}")
    typer.echo(f"variables  {variables or 'none'}")
    typer.echo(f"git        {git}")
