"""A record as Markdown."""

from collections.abc import Mapping
from typing import Any

from benchmarks.gpu.targets import judge, number, table


def report(record: Mapping[str, Any]) -> str:
    """The machine, the targets, the decoders' rates, then every other result on a line of its own."""
    sections: Mapping[str, Mapping[str, Any]] = record["sections"]
    machine = sections.get("machine", {})
    smi = machine.get("nvidia_smi") or {}
    versions = ", ".join(f"{name} {version}" for name, version in (machine.get("versions") or {}).items())
    head = [
        f"# {smi.get('name') or (machine.get('gpu') or {}).get('name', 'unknown GPU')}, commit {record['commit']}",
        f"driver {smi.get('driver_version', 'unknown')}; {record['machine']['cores']} cores of "
        f"{record['machine']['cpu']}; {versions}; {record['when']}",
    ]
    parts = ["\n\n".join(head), "## Targets\n\n" + table(judge(sections)), "## Decoders, frames/s by sessions\n"]
    parts[-1] += "\n" + rates_table(sections)
    for name, results in sections.items():
        if name == "machine":
            continue
        kept = {k: v for k, v in results.items() if not (name.startswith("backend ") and k.startswith("rate "))}
        lines = [f"- {key}: {short(value)}" for key, value in kept.items()]
        if not lines:
            continue
        parts.append(f"## {name}\n\n" + "\n".join(lines))
    return "\n\n".join(parts)


def rates_table(sections: Mapping[str, Mapping[str, Any]]) -> str:
    """A row for each clip and backend."""
    columns: dict[str, None] = {}
    rows = []
    for section, results in sections.items():
        if not section.startswith("backend "):
            continue
        for key, value in results.items():
            if key.startswith("rate ") and isinstance(value, Mapping):
                rows.append((key.removeprefix("rate "), section.removeprefix("backend "), value))
                columns |= dict.fromkeys(key for key in value if key[:1].isdigit())
    if not rows:
        return "None were measured."
    lines = [f"| clip | backend | {' | '.join(columns)} |", "|" + "---|" * (2 + len(columns))]
    for clip, backend, value in sorted(rows, key=lambda row: row[:2]):
        cells = [f"{value[column]:,}" if column in value else "" for column in columns]
        said = [short(value[word]) for word in ("failed", "cannot", "left out") if word in value]
        lines.append(f"| {clip} | {' / '.join([backend, *said])} | {' | '.join(cells)} |")
    return "\n".join(lines)


def short(value: Any) -> str:
    """One line, without what only the record needs."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {short(part)}" for key, part in value.items() if key != "backends")
    if isinstance(value, float):
        return number(value)
    return str(value).replace("\n", " ").replace("|", "/")[:220]
