"""The provenance of the numbers: machines, packages, seeds, commands and digests."""

from __future__ import annotations

from dataclasses import dataclass

from edgekit.machine import Machine
from edgekit.report import format as show
from edgekit.report.facts import ReportFacts


@dataclass(frozen=True)
class ProvenanceGroup:
    """A titled list of names and values; `code` if the values are for copying."""

    title: str
    items: list[tuple[str, str]]
    code: bool = False


def provenance(facts: ReportFacts) -> list[ProvenanceGroup]:
    """Return everything that is needed to trace and repeat the run."""
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
    height, width = recipe.data.image_size
    groups.append(ProvenanceGroup("Images", [("size for the models (height x width)", f"{height} x {width} px")]))
    groups.append(ProvenanceGroup("Seeds", seeds))
    if packages:
        groups.append(ProvenanceGroup("Packages", sorted(packages.items())))
    if commands := _commands(facts):
        groups.append(ProvenanceGroup("Commands", commands, code=True))
    if digests := _digests(facts):
        groups.append(ProvenanceGroup("Digests (SHA-256)", digests, code=True))
    return groups


def _machines(facts: ReportFacts) -> list[tuple[Machine, list[str]]]:
    """Return each machine of the results, and the commands that ran on it."""
    machines: list[tuple[Machine, list[str]]] = []
    results = [("evaluate", facts.evaluation_result)] if facts.evaluation_result else []
    for use, result in [*results, *(("bench", m.result) for m in facts.measured)]:
        assert result is not None
        for machine, uses in machines:
            if (machine.cpu, machine.cores, machine.os) == (
                result.machine.cpu,
                result.machine.cores,
                result.machine.os,
            ):
                if use not in uses:
                    uses.append(use)
                break
        else:
            machines.append((result.machine, [use]))
    return machines


def _machine(machine: Machine, uses: list[str]) -> ProvenanceGroup:
    items = [
        ("processor", machine.cpu),
        ("cores", f"{machine.cores} ({machine.architecture})"),
        ("memory", show.memory(machine.memory_bytes)),
        ("instruction sets", ", ".join(machine.isa) or show.NONE),
        ("system", machine.os),
        ("Python", machine.python),
    ]
    return ProvenanceGroup(f"Machine of {' and '.join(uses)}", items)


def _commands(facts: ReportFacts) -> list[tuple[str, str]]:
    commands = []
    if facts.stages:
        commands.append((show.day(next(iter(facts.stages.values())).record.created), facts.command("train")))
    if facts.evaluation_result:
        commands.append((show.day(facts.evaluation_result.created), " ".join(facts.evaluation_result.command)))
    if facts.bundle and (command := facts.bundle.manifest.provenance.get("command")):
        text = " ".join(map(str, command)) if isinstance(command, list) else str(command)
        commands.append((show.day(facts.bundle.manifest.created), text))
    seen = {text for _, text in commands}
    for m in facts.measured:
        text = " ".join(m.result.command)
        if text not in seen:
            seen.add(text)
            commands.append((show.day(m.result.created), text))
    return commands


def _digests(facts: ReportFacts) -> list[tuple[str, str]]:
    digests = [(f"inputs of {name}", stage.record.digest) for name, stage in facts.stages.items()]
    for name, stage in facts.stages.items():
        digests += [
            (f"{name}/{file}", digest) for file, digest in stage.record.outputs.items() if file.endswith(".safetensors")
        ]
    if facts.bundle:
        digests.append(("export/bundle.json", facts.bundle.digest))
        digests += [(f"export/{f.path}", f.sha256) for v in facts.bundle.manifest.variants for f in v.files]
    return digests
