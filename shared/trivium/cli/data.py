"""`trivium data`: makes a CSV or JSONL of yours the archive, the training set or a dataset."""

import asyncio
import enum
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from trivium.cli.audited import audited
from trivium.datasets import Record, read_records
from trivium.domain.variants import EdgeVariant, PrecomputedVariant
from trivium.errors import DatasetError
from trivium.features import Feature, find_feature
from trivium.settings import StoreSettings

app = typer.Typer(help="Archives, training sets, datasets.", no_args_is_help=True)


class Use(enum.StrEnum):
    """What a file becomes."""

    ARCHIVE = "archive"
    TRAIN = "train"
    DATASET = "dataset"


@app.callback()
def _group() -> None:
    """Archives, training sets, datasets."""


@app.command("import")
@audited("data.import", target="feature", detail=("file", "use", "name", "append"))
def import_data(
    file: Annotated[Path, typer.Argument(help="A .csv with a header, or a .jsonl.")],
    feature: Annotated[str, typer.Option(help="The feature it is for.")],
    use: Annotated[Use, typer.Option("--as", help="What it becomes.")],
    text_field: Annotated[str, typer.Option(help="Column of the text.")] = "text",
    label_field: Annotated[str, typer.Option(help="Column of the label.")] = "label",
    id_field: Annotated[
        str | None, typer.Option(help="Column of the entity_key; by default the line's number.")
    ] = None,
    name: Annotated[str, typer.Option(help="Of the dataset: evals/<name>.jsonl.")] = "imported",
    append: Annotated[bool, typer.Option(help="Add to the archive, instead of replacing it.")] = False,
) -> None:
    """Checks every line, then imports all of them or, with one faulty line, none."""
    settings = StoreSettings()
    loaded = find_feature(settings.features_dir, feature)
    match use:
        case Use.ARCHIVE:
            variant = archive_variant(loaded)
            records = archive_records(file, variant, text_field, id_field)
            asyncio.run(_store(settings, variant.archive, records, append))
            where = f"the archive {variant.archive!r}; now run: trivium precompute {feature}"
            typer.echo(f"imported {len(records)} records into {where}")
        case Use.TRAIN:
            rows = [
                {"text": r[text_field], "label": r[label_field]}
                for r in read_records(file, (text_field, label_field))
            ]
            _write(settings.state_dir / "data" / feature / "train.jsonl", rows)
        case Use.DATASET:
            _write(
                loaded.folder / "evals" / f"{name}.jsonl",
                _cases(loaded, file, text_field, label_field),
            )


def archive_variant(feature: Feature) -> PrecomputedVariant:
    """The variant whose archive a feature has."""
    for variant in feature.precomputed:
        if isinstance(variant.spec, PrecomputedVariant):
            return variant.spec
    raise DatasetError(f"{feature.name} has no precomputed variant, so it has no archive")


def archive_records(
    file: Path, variant: PrecomputedVariant, text_field: str, id_field: str | None
) -> dict[str, Record]:
    """The records of a file by their entity_key, the text in the field that the variant reads."""
    of = variant.compute.neighbours
    field = of.text_field if of else text_field
    required = (text_field, id_field) if id_field else (text_field,)
    records: dict[str, Record] = {}
    for number, record in enumerate(read_records(file, required), start=1):
        key = str(record.pop(id_field)) if id_field else f"row-{number:07d}"
        if key in records:
            raise DatasetError(f"{file}: {id_field} {key!r} stands twice")
        record[field] = record.pop(text_field)
        records[key] = record
    if not records:
        raise DatasetError(f"{file}: there is no record in it")
    return records


async def _store(settings: StoreSettings, archive: str, records: dict[str, Record], append: bool) -> None:
    from trivium.store.archive import ArchiveRepository
    from trivium.store.engine import Database, migrate

    database = Database(settings.resolved_database_url)
    await migrate(database)
    repository = ArchiveRepository(database)
    if append:
        await repository.put(archive, records)
    else:
        await repository.replace(archive, records)
    await database.close()


def _cases(feature: Feature, file: Path, text_field: str, label_field: str) -> list[dict[str, Any]]:
    edge = [v.spec for v in feature.variants.values() if isinstance(v.spec, EdgeVariant)]
    field = edge[0].text_field if edge else "text"
    cases = []
    for number, record in enumerate(read_records(file, (text_field, label_field)), start=1):
        case = {"input": {field: record[text_field]}, "expected": {"label": record[label_field]}}
        feature.check_input(case["input"])
        cases.append({"id": f"{file.stem}-{number:05d}", **case})
    return cases


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    if not rows:
        raise DatasetError("there is no record in the file")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    partial.replace(path)
    typer.echo(f"wrote {len(rows)} lines to {path}")
