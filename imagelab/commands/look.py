"""The commands that look at pictures and files: check, lora inspect, control map."""

from pathlib import Path
from typing import Annotated

import typer

from imagelab.commands.options import FAILED, Device, ProfileName


def check(
    folder: Annotated[Path, typer.Argument(help="Folder of PNG, JPEG and WebP pictures.")],
    character: Annotated[list[str], typer.Option(help="Whom they are compared with; may be given several times.")],
    threshold: Annotated[
        float | None, typer.Option(help="Cosine from which on a picture shows the character; by default its own.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Table to write, or to go on with; by default check-FOLDER.parquet."),
    ] = None,
    encoder: Annotated[
        list[str] | None, typer.Option(help="Another encoder, whose scores are added; may be given several times.")
    ] = None,
    recursive: Annotated[bool, typer.Option("--recursive", help="Look into the folders in it, too.")] = False,
    several: Annotated[
        str, typer.Option(help="Of several faces: require_one, largest, most_central or best_match.")
    ] = "require_one",
    device: Device = "auto",
    profile: ProfileName = None,
) -> None:
    """Compare a folder of pictures with a character; a check that was stopped goes on when it is asked for again."""
    from imagelab.consistency import CharacterConsistencyChecker
    from imagelab.folder_check import check_folder
    from imagelab.references import CharacterReferenceManager

    with CharacterConsistencyChecker(device, profile, several=several) as checker:  # type: ignore[arg-type]  # it checks
        manager = CharacterReferenceManager(checker)
        references = [manager.references(name) for name in character]
        calibrations = {name: manager.calibration(name) for name in character} if threshold is None else {}
        result = check_folder(
            folder,
            references,
            output or Path(f"check-{folder.resolve().name}.parquet"),  # a second folder's table is another one
            checker=checker,
            threshold=threshold,
            calibrations=calibrations,
            encoders=encoder or (),
            recursive=recursive,
        )
    typer.echo(result.to_text())


def inspect_file(
    file: Annotated[Path, typer.Argument(help="A .safetensors file.")],
    profile: Annotated[
        str | None, typer.Option(help="Profile whose base model it is compared with, by default the default profile.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print everything as JSON, each module included.")] = False,
) -> None:
    """Tell what a LoRA file is, which base it is for, what it changes, and what is wrong with it."""
    from imagelab.composition import registered_words
    from imagelab.config import load_configs
    from imagelab.errors import ModelNotFoundError, ProfileError
    from imagelab.lora import inspect_lora, profile_base

    configs = load_configs()
    base = None
    try:
        base = profile_base(configs.profile(profile))
    except (ModelNotFoundError, ProfileError) as error:
        if profile is not None:
            raise
        typer.echo(f"not compared with the default profile's base: {error}", err=True)
    report = inspect_lora(file, base=base, registered=registered_words(configs, file))
    typer.echo(report.to_json(indent=2) if json else report.to_text())
    if report.faults:
        raise typer.Exit(FAILED)


def control_map(
    control_type: Annotated[str, typer.Argument(metavar="TYPE", help="pose, canny, depth, seg or normal.")],
    picture: Annotated[Path, typer.Argument(help="PNG, JPEG or WebP.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="PNG to write.")],
    profile: ProfileName = None,
) -> None:
    """Make the map of a picture that a ControlNet obeys."""
    from imagelab.imagefiles import check_png_path, save_png

    check_png_path(output, "--output")
    from imagelab.preprocess import make_control_map

    save_png(make_control_map(control_type, picture, profile).image, output)
    typer.echo(f"wrote {output}")
