"""Generate the JSON schemas that editors complete and check the YAML files with: `python -m imagelab.config.schema`."""

import json
from pathlib import Path

from imagelab.config.base import Config
from imagelab.config.load import SCHEMAS
from imagelab.config.paths import configs_root
from imagelab.config.sweeps import SweepConfig


def render_schemas() -> dict[str, str]:
    """Return {file name: text} of every schema."""
    return {
        f"{file}.schema.json": json.dumps(
            {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema.model_json_schema()},
            indent=2,
            ensure_ascii=False,
        )
        + "\n"
        for file, schema in _schemas().items()
    }


def _schemas() -> dict[str, type[Config]]:
    return {**SCHEMAS, "sweep": SweepConfig}


def write_schemas(folder: Path | None = None) -> list[Path]:
    """Write the schemas into `folder`, by default configs/schemas/, and return their paths."""
    folder = folder or configs_root() / "schemas"
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, text in render_schemas().items():
        path = folder / name
        path.write_text(text, encoding="utf-8")
        paths.append(path)
    return paths


if __name__ == "__main__":
    write_schemas()
