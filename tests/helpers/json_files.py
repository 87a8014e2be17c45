"""Change JSON files, as damage or a stranger might."""

import json


def change_json(path, change):
    """Let `change` change the content of a JSON file in place."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
