"""Where the numbers are from: machines, packages, seeds, commands and digests."""

from __future__ import annotations

from dataclasses import dataclass

from edgekit.machine import Machine
from edgekit.report import format as show
from edgekit.report.facts import ReportFacts


@dataclass(frozen=True)
class Group:
    """A titled list of names and values; `code` where the values are for copying."""

    title: str
    items: list[tuple[str, str]]
    code: bool = False


def provenance(facts: ReportFacts) -> list[Group]:
    """Everything that is needed to trace and repeat the run."""
    groups = [_machine(machine, uses) for machine, uses in _machines(facts)]
    packages: dict[str, str] = {}
    for stage in facts.stages.values():
        packages.update(stage.record.packages)
    for machine, _ in _machines(facts):
        packages.update({k: v for k, v in machine.packages.items() if k not in packages})
    recipe = facts.recipe
    seeds = [
        ("weights, batches, augmentation", str(recipe.seed)),
        ("draw of the labels", str(recipe.data.label_seed)),
        ("draw of test and probe", str(recipe.data.split_seed)),
    ]
    groups.append(Group("Seeds", seeds))
    if packages:
        groups.append(Group("Packages", sorted(packages.items())))
    if commands := _commands(facts):
        groups.append(Group("Commands", commands, code=True))
    if digests := _digests(facts):
        groups.append(Group("Digests (SHA-256)", digests, code=True))
    return groups


def _machines(facts: ReportFacts) -> list[tuple[Machine, list[str]]]:
    """Each machine that a result is from, and what was done on it."""
    found: list[tuple[Machine, list[str]]] = []
    results = [("evaluate", facts.evaluation_result)] if facts.evaluation_result else []
    for use, result in [*results, *(("bench", m.result) for m in facts.measured)]:
        assert result is not None
        for machine, uses in found:
            if (machine.cpu, machine.cores, machine.os) == (
                result.machine.cpu,
                result.machine.cores,
                result.machine.os,
            ):
                if use not in uses:
                    uses.append(use)
                break
        else:
            found.append((result.machine, [use]))
    return found


def _machine(machine: Machine, uses: list[str]) -> Group:
    items = [
        ("processor", machine.cpu),
        ("cores", f"{machine.cores} ({machine.architecture})"),
        ("memory", show.memory(machine.memory_bytes)),
        ("instruction sets", ", ".join(machine.isa) or show.NONE),
        ("system", machine.os),
        ("Python", machine.python),
    ]
    return Group(f"Machine of {' and '.join(uses)}", items)


def _commands(facts: ReportFacts) -> list[tuple[str, str]]:
    found = []
    if facts.evaluation_result:
        found.append((show.day(facts.evaluation_result.created), " ".join(facts.evaluation_result.command)))
    if facts.bundle and (command := facts.bundle.manifest.provenance.get("command")):
        text = " ".join(map(str, command)) if isinstance(command, list) else str(command)
        found.append((show.day(facts.bundle.manifest.created), text))
    seen = {text for _, text in found}
    for m in facts.measured:
        text = " ".join(m.result.command)
        if text not in seen:
            seen.add(text)
            found.append((show.day(m.result.created), text))
    return found


def _digests(facts: ReportFacts) -> list[tuple[str, str]]:
    found = [(f"inputs of {name}", stage.record.digest) for name, stage in facts.stages.items()]
    for name, stage in facts.stages.items():
        found += [
            (f"{name}/{file}", digest) for file, digest in stage.record.outputs.items() if file.endswith(".safetensors")
        ]
    if facts.bundle:
        found.append(("export/bundle.json", facts.bundle.digest))
        found += [(f"export/{f.path}", f.sha256) for v in facts.bundle.manifest.variants for f in v.files]
    return found
