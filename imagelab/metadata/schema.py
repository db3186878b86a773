"""The JSON schema of the `imagelab` chunk, generated from the values that are written: `python -m imagelab schema`."""

import json
from pathlib import Path

from imagelab.config.paths import project_root
from imagelab.metadata.chunk import CHUNK_VERSION, PictureChunk

SCHEMA_FILE = f"docs/schemas/imagelab_chunk.{CHUNK_VERSION}.schema.json"


def render_chunk_schema() -> str:
    """Return the schema of what is written now, as JSON."""
    from pydantic import TypeAdapter

    schema = TypeAdapter(PictureChunk).json_schema()
    for described in (schema, *schema["$defs"].values()):
        described["additionalProperties"] = False  # readers refuse it, see decision 13
    schema["required"] = ["chunk_version", *schema["required"]]
    schema["properties"]["chunk_version"] = {"const": CHUNK_VERSION}
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return json.dumps(head | schema, indent=2, ensure_ascii=False) + "\n"


def write_chunk_schema() -> Path:
    """Write the schema into docs/schemas/ of the project, and return its path."""
    path = project_root() / SCHEMA_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render_chunk_schema(), encoding="utf-8")
    return path
